"""How the box is: load, memory, disk, temperature. In: nothing. Out: plain values for telemetry and the box's page."""
