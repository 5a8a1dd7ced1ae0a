"""The budget ledger of a data set: written ahead, chained, signed, enforced."""
