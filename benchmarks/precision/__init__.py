"""Every way of storing an SDXL: what the nodes do with it, and how far the trained network is from the host's."""
