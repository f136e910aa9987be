"""The command line, one file a group of commands.

It alone knows the theory, the models and inference together.
"""
