"""What dataplane.py is made of: processes and their cost, the proxies, the loads."""
