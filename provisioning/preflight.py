"""Look at a machine before it is made an appliance: each check says what it found, and what to do where that is bad.

Nothing is changed, nothing is sent but one TCP connection to each server of the plan.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import os
import platform
import shutil
import socket
import sys
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from provisioning.site import SitePlan

BUILT_AT = dt.datetime(2026, 11, 23, tzinfo=dt.timezone.utc)
"""No clock that is right shows an earlier time. Moved on with every release."""
WANTED_DISK = 64 << 30  # bytes; a month of studies at 30 a day, three bundles, journals
_TIMEOUT_S = 5.0
_STA_UNSYNC = 0x0040  # linux/timex.h
_FAST = (("avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("bf16", "bf16"), ("avx512f", "fp32"), ("avx2", "fp32"))
_GPU_NODES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl")

Status = Literal["ok", "warn", "fail"]


class _Timex(ctypes.Structure):
    """The head of struct timex (adjtimex(2)); the kernel writes 208 bytes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


@dataclass(frozen=True)
class Check:
    """What one check found. remedy stands with warn and fail."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def inspect(plan: SitePlan, state: Path | None = None) -> tuple[Check, ...]:
    """All checks of this machine against a plan."""
    folder = (state or plan.state).absolute()
    return (
        python_version(sys.version_info[:3]),
        disk(folder, plan.receiver.min_free_bytes),
        writable(folder),
        clock(dt.datetime.now(dt.timezone.utc), kernel_says_synchronised()),
        time_zone(plan.timezone),
        memory(plan.analyser.memory_mb),
        cpu_features(),
        gpu(),
        *ports(plan),
        *scanners(plan),
        *servers(plan),
    )


def worst(checks: Iterable[Check]) -> Status:
    """fail if any failed, else warn if any warns."""
    seen = {check.status for check in checks}
    return "fail" if "fail" in seen else "warn" if "warn" in seen else "ok"


def python_version(version: tuple[int, ...]) -> Check:
    """3.10 or newer."""
    text = ".".join(map(str, version))
    if version < (3, 10):
        return Check("Python", "fail", text, "Install Python 3.10 or newer.")
    return Check("Python", "ok", text)


def disk(folder: Path, least: int) -> Check:
    """Room for the receiver to accept anything at all, and for a month of studies."""
    usage = shutil.disk_usage(_existing(folder))
    text = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f}"
    if usage.free < least:
        return Check("disk", "fail", text, f"Free space: under {least / 2**30:.1f} GiB studies are refused.")
    if usage.free < WANTED_DISK:
        return Check("disk", "warn", text, f"Plan for {WANTED_DISK >> 30} GiB, or shorten receiver.keep_studies_days.")
    return Check("disk", "ok", text)


def writable(folder: Path) -> Check:
    """Whether files can be made in the state folder (or in the one that it will be made in)."""
    place = _existing(folder)
    if os.access(place, os.W_OK | os.X_OK):
        return Check("state folder", "ok", str(folder))
    return Check(
        "state folder", "fail", f"{place} is not writable", "Run as root, or name another folder with --state."
    )


def clock(now: dt.datetime, synchronised: bool | None) -> Check:
    """Certificates, signed metadata and results all need the right time."""
    text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now < BUILT_AT:
        return Check("clock", "fail", f"{text} is in the past", "Set the clock (timedatectl), then switch on NTP.")
    if synchronised is None:
        return Check("clock", "warn", f"{text}, unknown if synchronised", "Make sure that chrony or timesyncd runs.")
    if not synchronised:
        remedy = "Switch on NTP: timedatectl set-ntp true, with the hospital's time server if it has one."
        return Check("clock", "warn", f"{text}, not synchronised", remedy)
    return Check("clock", "ok", f"{text}, synchronised")


def kernel_says_synchronised() -> bool | None:
    """adjtimex(2): whether something disciplines the clock. None where the kernel can't be asked."""
    asked = _Timex()  # modes = 0: only reads
    try:
        answered = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
    except (OSError, AttributeError):
        return None
    return None if answered < 0 else not asked.status & _STA_UNSYNC


def time_zone(planned: str) -> Check:
    """Whether the machine lives in the plan's time zone: people read local times on the box's page."""
    try:
        here = os.path.realpath("/etc/localtime").split("/zoneinfo/")[1]
    except IndexError:
        here = "UTC"
    if here in (planned, f"Etc/{planned}", planned.removeprefix("Etc/")):
        return Check("time zone", "ok", here)
    return Check("time zone", "warn", f"{here}, the plan says {planned}", f"timedatectl set-timezone {planned}")


def memory(needed_mb: int) -> Check:
    """Room for one analysis beside everything else."""
    total_mb = psutil.virtual_memory().total >> 20
    text = f"{total_mb} MiB, one analysis may use {needed_mb}"
    if total_mb < needed_mb:
        return Check("memory", "fail", text, "Lower analyser.memory_mb in the plan, or take a larger machine.")
    if total_mb < needed_mb + 2048:
        return Check("memory", "warn", text, "Leave 2 GiB beside the analysis: lower analyser.memory_mb.")
    return Check("memory", "ok", text)


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> Check:
    """The fastest arithmetic that this CPU has."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((set(s.split(":", 1)[1].split()) for s in lines if s.startswith(("flags", "Features"))), set())
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    for flag, precision in _FAST:
        if flag in flags:
            return Check("CPU", "ok", f"{cores}, {flag} ({precision})")
    if "asimd" in flags:
        return Check("CPU", "ok", f"{cores}, asimd (fp32)")
    return Check("CPU", "warn", f"{cores}, no AVX2 or NEON", "Analyses will be slow; a newer CPU or a GPU helps.")


def gpu() -> Check:
    """Whether there is an NVIDIA GPU. Without one the CPU does the work."""
    nodes = [node for node in _GPU_NODES if Path(node).exists()]
    return Check("GPU", "ok", f"NVIDIA ({nodes[0]})" if nodes else "none: the CPU reads the studies")


def ports(plan: SitePlan) -> list[Check]:
    """Whether our ports are free on the addresses that the plan names."""
    listeners = (
        ("DICOM port", plan.receiver.host, plan.receiver.port),
        ("console port", plan.console.host, plan.console.port),
    )
    return [_port(name, host, port) for name, host, port in listeners]


def _port(name: str, host: str, port: int) -> Check:
    where = f"{host}:{port}"
    if port == 0:
        return Check(name, "ok", f"{where}: a free one will be taken")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return Check(name, "fail", f"{where} needs a privilege", "Use 11112, or run under the systemd units.")
        except OSError as error:
            remedy = f"See who has it: ss -ltnp 'sport = :{port}' (this appliance itself, if it runs already)."
            return Check(name, "fail", f"{where}: {error.strerror}", remedy)
    return Check(name, "ok", f"{where} is free")


def scanners(plan: SitePlan) -> list[Check]:
    """Which address of this machine to enter at each scanner. Asks the routing table; sends nothing."""
    return [_route(s.ae_title, s.address, plan.receiver.port) for s in plan.scanners if s.address]


def _route(title: str, address: str, port: int) -> Check:
    name = f"scanner {title}"
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 104))  # UDP: no packet leaves
            ours = probe.getsockname()[0]
    except OSError as error:
        return Check(name, "warn", f"no route to {address}: {error}", "Check cable, VLAN and address.")
    return Check(name, "ok", f"will reach this box at {ours}:{port}")


def servers(plan: SitePlan) -> list[Check]:
    """Whether registry and PACS accept a TCP connection."""
    registry = plan.registry
    wanted: list[tuple[str, str, int, Status]] = [
        ("enrolment", *_address(registry.enrol_url), "fail"),
        ("MQTT broker", registry.mqtt_host, registry.mqtt_port, "warn"),
        ("model repository", *_address(registry.tuf_url), "warn"),
    ]
    wanted += [(f"PACS {p.name}", p.host, p.port, "warn") for p in plan.pacs]
    return [_server(*server) for server in wanted]


def _server(name: str, host: str, port: int, otherwise: Status) -> Check:
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S):
            return Check(name, "ok", f"{host}:{port} answers")
    except OSError as error:
        remedy = "Check name, firewall and routing with the hospital's network people."
        return Check(name, otherwise, f"{host}:{port}: {error.strerror or error}", remedy)


def _address(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())
