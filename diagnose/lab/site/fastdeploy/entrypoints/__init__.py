"""Part of the lab server, a stand-in for FastDeploy."""
