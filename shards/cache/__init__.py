"""Shards of remote or compressed sets, kept on the local disk within a bound and shared by processes."""
