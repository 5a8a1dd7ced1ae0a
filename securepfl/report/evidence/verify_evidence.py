"""Check a hospital's archive of evidence offline, with Python 3.11 and `cryptography`, and nothing of securepfl.

Take it from where securepfl is published, never from the archive, and run: python -I verify_evidence.py --help
Exit code 0: all that was asked for holds; 1: something does not; 2: something to mend here."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # no file beside this one takes a library's place
import argparse, base64, hashlib, json, math, re, struct, zlib
from collections import Counter
from typing import Any

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa
except ImportError:
    sys.exit(print("verify_evidence: first do `pip install 'cryptography>=50'`", file=sys.stderr) or 2)

KINDS = "session declared-session reservation settlement reduction expert-release audit withdrawal".split()
LINE, HEADING = b"securepfl ledger signature 1securepfl ledger line, schema 1\n", "# Privacy evidence\n\n"


def need(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an archive in the one form that securepfl writes: sorted, stored, with nothing beside them."""
    files, entries, at = dict[str, bytes](), [b""], 0
    while data[at : at + 4] == b"PK\3\4" and len(data) >= at + 30 and len(files) < 1000:
        size, length = struct.unpack_from("<IH", data, at + 22)
        start, name = at + 30 + length, data[at + 30 : at + 30 + length].decode("latin-1")
        file = data[start : start + size]
        about = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(file), size, size, length, 0)
        entries.append(b"PK\1\2\x14\3" + about + struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, at) + name.encode())
        plain = re.fullmatch(r"[A-Za-z_]+\.(md|jsonl?|py)|models/\d+\.md", name) and name > max(files, default="")
        need(plain and data[at + 4 : at + 30] == about, "it is packed in a way that securepfl never packs")
        files[name], at = file, start + size
    end = struct.pack("<4H2IH", 0, 0, len(files), len(files), sum(map(len, entries)), at, 0)
    need(files and data[at:] == b"".join([*entries, b"PK\5\6", end]), "it is no archive of evidence, or not whole")
    return files


def delta_of(epsilon: float, mu: float) -> float:
    """Of Gaussian sums over all units, in which one moves the mean by mu deviations (Balle and Wang 2018)."""
    with_it, without = (math.erfc((epsilon / mu + half) / math.sqrt(2)) / 2 for half in (-mu / 2, mu / 2))
    return with_it - math.exp(min(epsilon, 700)) * without


def read_ledger(data: bytes) -> dict[str, Any]:
    """What a ledger says once its chain, its signatures and its epsilon are checked."""
    hashes, lines, session = ["0" * 64], list[dict[str, Any]](), dict[str, Any]()
    for number, raw in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        lines.append(line := json.loads(raw))
        need(line["kind"] in KINDS, f"ledger line {number} is of a kind that is new to this script; take a newer one")
        need(line["previous"] == hashes[-1], f"ledger line {number} does not continue the one before")
        session = line if "session" in line["kind"] else session
        signed = raw.replace(b'"signature":"%s",' % line["signature"].encode(), b"", 1)
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(session["public_key"]))
        key.verify(bytes.fromhex(line["signature"]), LINE + signed)
        hashes.append(hashlib.sha256(raw).hexdigest())
    of = {kind: [(n, line) for n, line in enumerate(lines, 1) if line["kind"].endswith(kind)] for kind in KINDS}
    need(len({(one["site"], one["simulation"], one["seeded"]) for one in lines}) == 1, "its ledger mixes hospitals")
    reserved = {line["id"]: line["release"] for _, line in of["reservation"]}
    need(len(reserved) == len(of["reservation"]) > 0, "its ledger reserves a round twice, or none at all")
    counted = reserved | {line["id"]: line["actual"] for _, line in of["settlement"] + of["reduction"]}
    counts, epsilon, delta = Counter[tuple[float, float, str]](), line["epsilon"], session["budget"]["delta"]
    for release in counted.values():
        rate, noise = release.get("sample_rate", 0.0), release.get("noise_multiplier", 1.0)
        need(release["steps"] >= 0 <= rate <= 1 and noise > 0, "its ledger holds a release that none can be")
        counts[rate, noise, json.dumps(release | {"steps": 1, "tail": 0})] += release["steps"]
    exact = all(rate == 1 for rate, _, _ in counts)
    mu = math.sqrt(math.fsum(n / noise**2 for (rate, noise, _), n in counts.items() if rate == 1)) or 1e-9
    # In half of all draws a unit is in rate x n of n sampled steps or more: what a test on their sum then shows.
    tests = [int(n * rate) / noise / n**0.5 for (rate, noise, _), n in counts.items() if n * rate >= 1 > rate]
    least = max([delta_of(epsilon, mu), *(delta_of(epsilon + math.log(2), mean) / 2 for mean in tests)])
    need(least <= delta * 1.001, f"its ledger spent more than the epsilon that it states, {epsilon:.6g}")
    told = {name: line[name] for name in ("site", "simulation", "seeded", "epsilon", "time")}
    told |= {"hashes": hashes[1:], "budget": session["budget"], "mixed": len(+counts) > 1 and not exact}
    told |= {"unit": re.findall("record|patient", json.dumps(counted))[0], "mu": mu if exact else None}
    told |= {"reduced": sum(counted[id_] != reserved[id_] for id_ in counted), "withdrawn": len(of["withdrawal"])}
    told |= {"settings": {line["run"]: (line.get("facts") or {}).get("settings") for _, line in of["session"]}}
    told |= {"keys": {line["public_key"] for _, line in of["session"]}}
    return told | {"released": [(n, line["details"].get("run")) for n, line in of["expert-release"]]}


def words(told: dict[str, Any]) -> str:
    """What a ledger's figures mean: README.md begins with it."""
    unit, budget, delta, mu = told["unit"], told["budget"]["epsilon"], told["budget"]["delta"], told["mu"]
    said: str = "**A simulation: it shows what settings cost, and nothing about any hospital.** " * told["simulation"]
    said += f"By line {len(told['hashes'])} of its ledger ({told['time']}), {told['site']} had spent epsilon "
    said += f"{told['epsilon']:.6g} of {budget:g} at delta {delta:g}, counted for one {unit}. "
    epsilon, delta = (budget, 2 * delta) if told["mixed"] else (told["epsilon"], delta)
    said += f"What holds is epsilon {epsilon:g} at delta {delta:g}, as its kinds of release vary. " * told["mixed"]
    said += f"{told['reduced']} releases count for less than was reserved, on its word. " * bool(told["reduced"])
    said += f"An attacker who knows all but whether one {unit}'s data are in, and thinks both as likely, guesses right "
    wrong = (1 - delta) / (1 + math.exp(min(epsilon, 700)))  # limits on being right are rounded up
    said += f"with probability {math.ceil(1e4 - 1e4 * wrong) / 1e4:.4f} at most"
    said += f" ({math.ceil(5e3 * math.erfc(-mu / 8**0.5)) / 1e4:.4f} by the noise on its lines)" if mu else ""
    return said + "; 0.5 is a mere guess.\n"


def check(data: bytes, keys: set[str], heads: dict[str, Any]) -> str:
    files = unpack(data)
    sealed, signed = files.pop("manifest.json"), json.loads(files.pop("signature.json"))
    identity, signature = base64.b64decode(signed["identity"]), bytes.fromhex(signed["signature"])
    at, message = 1 + identity[0], b"securepfl signature 1\0\0\0\x0aevidence 1" + hashlib.sha256(sealed).digest()
    ed25519.Ed25519PublicKey.from_public_bytes(identity[at : at + 32]).verify(signature[:64], message)
    mldsa.MLDSA65PublicKey.from_public_bytes(identity[at + 32 : at + 1984]).verify(signature[64:], message)
    found, manifest = {name: hashlib.sha256(its).hexdigest() for name, its in files.items()}, json.loads(sealed)
    need(not (wrong := sorted(dict(found.items() ^ manifest["files"].items()))), f"not as it was signed: {wrong}")
    digest = base64.b32encode(hashlib.sha256(b"securepfl identity 1" + identity).digest()[:20]).decode()
    signer, key = "-".join(re.findall("....", digest)), identity[at:][:32].hex()
    need(not keys or keys & {signer, key}, f"it is signed by {signer}, ledger key {key}: by no --key")
    told = read_ledger(files["ledger.jsonl"])
    need(told["simulation"] or told["keys"] <= keys | {key}, "its ledger has other signers; give --key for each")
    need(identity[1:at].decode() == told["site"], "its ledger is another hospital's")
    need(told["settings"][manifest["run"]] == found["settings.json"], "settings.json is not what its ledger names")
    need(files["README.md"].decode().startswith(HEADING + words(told)), "README.md says other than its ledger")
    need([n for n, run in told["released"] if run == manifest["run"]] == manifest["models"], "a model has no card")
    stated = (heads["heads"] if isinstance(heads.get("schema"), int) else heads).get(told["site"], [])
    seen = {stated} if isinstance(stated, str) else {*stated}
    need(seen <= {*told["hashes"]} and bool(seen) == bool(heads), "--heads: others saw lines that its ledger lacks")
    said = "" if keys else "THE SIGNER IS NOT VERIFIED: without --key, anybody could have made this archive.\n"
    said += f"Signed by {told['site']}, fingerprint {signer}, ledger key {key}.\n{words(told)}"
    said += "All files and ledger lines hold"
    said += ". " if told["mu"] else "; epsilon is the ledger's own word: `securepfl audit verify` computes it. "
    said += f"By --heads none is missing up to line {max(map(told['hashes'].index, seen)) + 1}; l" if seen else "L"
    own = hashlib.sha256(open(__file__, "rb").read()).hexdigest()
    said += f"ines cut off at the end do not show.\nThis script's SHA-256 is {own}, "
    same = own == found["verify_evidence.py"]
    return said + ("as its copy's in the archive" if same else "the archive holds ANOTHER")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check a hospital's archive of evidence, offline.")
    parser.add_argument("archive", type=argparse.FileType("rb"))
    parser.add_argument("--key", action="append", default=[], help="the hospital's fingerprint or ledger key: ask it")
    parser.add_argument("--heads", type=argparse.FileType("rb"), help="what others saw of its ledger (heads.json)")
    asked = parser.parse_args()
    try:
        heads = json.load(asked.heads) if asked.heads else {}
        shown = re.sub(r"[^\w\n -~]", "?", check(asked.archive.read(2**26), {*asked.key}, heads))
        print(shown.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8"))
    except Exception as error:
        told = "a signature does not hold" if isinstance(error, InvalidSignature) else str(error) or repr(error)
        sys.exit(print(f"verify_evidence: {asked.archive.name}: {told}", file=sys.stderr) or 1)
