"""The lab: a stand-in for a FastDeploy server and its GPUs, for tests, practice and the demo.

Nothing else in the package imports it. What runs as the server lies in ``site`` and imports nothing from
here.
"""
