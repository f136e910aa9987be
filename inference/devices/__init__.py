"""Where programs run: devices, processes, data sharding, progress and the compilation cache.

The lowest room of `inference`, of which it imports only the contract of a model: nothing here
knows what a fit is.
"""
