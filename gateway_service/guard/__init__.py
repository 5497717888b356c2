"""Keeps strangers out: origins, hosts, rates, sockets, sizes, and the headers that browsers obey."""
