"""What the bytes of a message are for: the payload of updates and personal parameters, similarity, masks."""

from securepfl.protocol.messages import Agreement, Answer, Body, Contribution, Reveal, encode


def purposes_of(body: Body) -> dict[str, int]:
    """Bytes of `body` by purpose; what is left of its message is envelope: signatures, seals, names.

    >>> purposes_of(Reveal(shares={}))["masks"] == len(encode(Reveal(shares={})))
    True
    """
    match body:
        case Contribution():
            masks = 0 if body.masks is None else len(body.masks.commitments) + sum(map(len, body.masks.blobs))
            return {
                "updates": len(body.update),
                "personal": len(body.personal or b""),
                "similarity": len(body.sketch or b"") + len(body.evaluation or b""),
                "masks": masks,
            }
        case Answer():
            return {
                "updates": len(body.aggregate or b""),
                "personal": len(body.neighbourhood or b"") + len(body.consensus or b""),
                "similarity": sum(map(len, body.products.values())),
            }
        case Agreement() | Reveal():
            return {"masks": len(encode(body))}
    return {}
