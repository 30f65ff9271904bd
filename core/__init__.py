"""The core of mpcc: contracts, registry, configuration, training protocol. It never imports a plugin.

Importing this package imports nothing else; take what you need from its modules.
"""
