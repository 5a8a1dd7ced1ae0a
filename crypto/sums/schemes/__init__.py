"""The encryption schemes, one file each under the name that stands in `[encryption] scheme`."""
