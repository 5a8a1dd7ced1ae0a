"""Folders on disk: a party's state and its keys, each file replaced in one step."""
