# The appliance or the registry in a container: `docker build -t onescan .`, then for example
#   docker run -v onescan:/var/lib/onescan -v ./appliance.yaml:/etc/onescan/appliance.yaml:ro -p 11112:11112 onescan
#   docker run … onescan onescan-registry --config /etc/onescan/registry.yaml run
# For a CPU. A Jetson runs OneScan under systemd (deploy/systemd), with the TensorRT of its JetPack.
# Not yet seen to build: see docs/architecture.md, "What has not been tried".

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements/3.11.txt requirements/
RUN python -m venv /opt/onescan \
 && /opt/onescan/bin/pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: -r requirements/3.11.txt
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY engines engines
COPY appliance appliance
COPY registry registry
COPY provisioning provisioning
RUN /opt/onescan/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN apt-get update \
 && apt-get install -y --no-install-recommends fonts-dejavu-core \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --home-dir /var/lib/onescan --shell /usr/sbin/nologin onescan \
 && install -d -o onescan -g onescan -m 2770 /var/lib/onescan \
 && install -d -o root -g onescan -m 0750 /etc/onescan
COPY --from=build /opt/onescan /opt/onescan
ENV PATH=/opt/onescan/bin:$PATH ONESCAN_CONFIG=/etc/onescan/appliance.yaml PYTHONUNBUFFERED=1
USER onescan
VOLUME /var/lib/onescan
EXPOSE 11112 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["onescan-appliance", "status", "--json"]
CMD ["onescan-appliance", "run"]
