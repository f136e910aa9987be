"""Where programs run: devices and processes, their share of the data, and the programs kept on
disk.

The lowest room of `inference`: nothing here knows what a model or a fit is.
"""
