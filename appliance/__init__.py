"""The box beside the scanner. Begin with `appliance.pipeline`: one study, its stages in order.

In: DICOM over the network. Out: result objects to the PACS, messages to the registry. `appliance.service` composes the
roles; stages never import each other.
"""
