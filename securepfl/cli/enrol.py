"""The key ceremony: `securepfl keys enrol` and `rotate`. Each gives the lines to print.

What is read from the exchange folder is checked in full before anything is written; then a party's own file is
written, and only then what it sends, so a secret that was sent is never lost or made anew, and a command that was cut
off is run again.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from securepfl.cli.asking import ask_passphrase, confirm, parse_fingerprints
from securepfl.cli.identity import short
from securepfl.crypto.keys.card import IdentityCard
from securepfl.crypto.keys.grant import MAX_GRANT_BYTES, Grant, Notice
from securepfl.crypto.keys.holdings import Epoch, Holdings
from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.keys.keys import FederationKey
from securepfl.crypto.keys.pair import PAIR_BYTES, makes_pair, open_pair, seal_pair
from securepfl.crypto.keys.roster import Roster
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, MessageError
from securepfl.randomness import fresh_key
from securepfl.settings.federation import Federation
from securepfl.settings.roster import check_declared, check_roster
from securepfl.settings.tables import SiteSettings
from securepfl.storage.ceremony_folder import (
    card_file,
    card_names,
    check_given,
    check_name,
    check_own,
    epoch_folder,
    naming,
    newest_epoch,
    reachable,
    read_card,
    read_people,
)
from securepfl.storage.keys import KeyFolder, publish, read_bounded


def enrol(
    config: Path,
    folder: Path,
    exchange: Path,
    *,
    steward: str,
    fingerprints: Iterable[str],
    passphrase_file: Path | None,
) -> list[str]:
    """One party's next step of the ceremony; run again until it says "complete".

    Raises ConfigError, MessageError or StorageError (one line each) with nothing written.
    """
    federation, given = Federation.read(config), parse_fingerprints(fingerprints)
    check_name(steward)
    with reachable(exchange), KeyFolder.open(folder, ask_passphrase(passphrase_file, folder)) as keys:
        check_own(exchange, keys.holdings)
        check_given(exchange, given)
        if keys.holdings.identity.name != steward:
            return _others_enrol(federation, exchange, keys, steward, given)
        if keys.holdings.is_coordinator:
            raise ConfigError(f"--steward {steward}: the coordinator cannot be the steward; name a hospital")
        return _steward_enrols(federation, exchange, keys, given)


def rotate(
    config: Path,
    folder: Path,
    exchange: Path,
    *,
    remove: Iterable[str],
    fingerprints: Iterable[str],
    passphrase_file: Path | None,
) -> list[str]:
    """The steward's new epoch: a wholly new key for the parties that remain and those newly confirmed.

    Raises ConfigError where this is not the steward or a name is unknown, else as `enrol`; nothing is then written.
    """
    federation, given, leaving = Federation.read(config), parse_fingerprints(fingerprints), set(remove)
    with reachable(exchange), KeyFolder.open(folder, ask_passphrase(passphrase_file, folder)) as keys:
        before, identity = keys.holdings.latest, keys.holdings.identity
        if before is None or before.steward != identity.name:
            raise ConfigError(
                f"{identity.name} is not the steward of an epoch; the steward rotates, others enrol again"
            )
        check_own(exchange, keys.holdings)
        check_given(exchange, given)
        cards = _remaining(exchange, keys.holdings, before, leaving, given)
        if newest_epoch(exchange, "roster") > before.number:
            raise ConfigError(
                f"{exchange}: holds a roster newer than epoch {before.number}, the latest that is held here (keys "
                "restored from an old copy?); restore the newest copy, or begin anew in an empty exchange folder"
            )
        known = {public.fingerprint for public in before.people.values()}
        for card in cards.values():
            if card.public.fingerprint in known and card.coordinator != (card.public == before.coordinator):
                path = card_file(exchange, card.public.name)
                raise MessageError(f"{path}: says {card.role} now; a party keeps its role")
        epoch = _found_epoch(federation, identity, cards, before.number + 1, before.federation_digest)
        new = [card for card in cards.values() if card.public.fingerprint not in known]
        confirm(exchange, new, given, replaced=before.people)
        staying = {card.public.fingerprint for card in cards.values()}
        removed = tuple(sorted({*known, *keys.holdings.removed} - staying))
        lines = _settle(exchange, keys, epoch, removed) + _changed(federation, before)
        return [*lines, "all others: run `securepfl keys enrol` again"]


def _changed(federation: Federation, before: Epoch) -> list[str]:
    """A note where the settings are not those of the epoch before, whatever the roster, or where that can't be seen."""
    goes_on = "a run under way goes on only where the hospitals and their weights alone changed"
    if gone := sorted(set(before.hospitals) - set(federation.sites)):
        tables = ", ".join(f"[sites.{name}]" for name in gone)
        return [
            f"note: without {tables}, these settings can't be compared with those of epoch {before.number}: {goes_on}"
        ]
    sites = {name: settings for name, settings in federation.sites.items() if name in before.hospitals}
    if ceremony_digest(federation.replace(sites=sites), before.hospitals) == before.federation_digest:
        return []
    return [f"note: these settings, or some weights, are not those of epoch {before.number}: {goes_on}"]


def _remaining(
    exchange: Path, holdings: Holdings, before: Epoch, leaving: set[str], given: Mapping[str, str]
) -> dict[str, IdentityCard]:
    """The cards of the next epoch: those that stay, and those in the exchange that nobody removed."""
    present = card_names(exchange)
    for name in sorted(leaving):
        if name not in before.people and name not in present:
            raise ConfigError(f"--remove {name}: no such party; known are {', '.join(sorted(before.people))}")
        if name == holdings.identity.name or name in given:
            raise ConfigError(f"--remove {name}: the steward stays, and nobody is removed and confirmed at once")
    names = {*before.people, *present} - leaving
    cards = {name: read_card(exchange, name) for name in sorted(names)}
    return {
        name: card for name, card in cards.items() if card.public.fingerprint not in holdings.removed or name in given
    }


def ceremony_digest(federation: Federation, roster: Iterable[str]) -> bytes:
    """What a ceremony is bound to: SHA-256 over the settings with these hospitals, without the model's shape.

    32 bytes; so that the command line needs no model. Raises ConfigError where the roster does not fit the settings.
    """
    names = sorted(roster)
    for name in names:
        check_name(name)
    if len(names) < federation.minimum:
        raise ConfigError(
            f"{len(names)} hospital(s) ({', '.join(names)}), but a sum needs {federation.minimum}: wait for the "
            "others' identities"
        )
    for name in federation.sites:
        if name not in names:
            raise ConfigError(f"[sites.{name}]: no such hospital among {', '.join(names)}; mend the name, or enrol it")
    check_roster(names, federation.minimum)
    sites = {name: federation.sites.get(name, SiteSettings()) for name in names}
    check_declared(sites, federation.privacy.unit)
    return federation.replace(sites=sites).ceremony_digest


def _found_epoch(
    federation: Federation, steward: Identity, cards: Mapping[str, IdentityCard], number: int, predecessor: bytes
) -> Epoch:
    """A new epoch of confirmed parties, under a wholly new key."""
    coordinators = [card.public for card in cards.values() if card.coordinator]
    if len(coordinators) != 1:
        names = ", ".join(public.name for public in coordinators) or "none"
        raise ConfigError(f"one coordinator is needed, found: {names}; it runs `securepfl keys create --coordinator`")
    hospitals = {name: card.public for name, card in cards.items() if not card.coordinator}
    if strange := [name for name in hospitals if name not in federation.sites]:
        raise ConfigError(
            f"{strange[0]}.identity: the settings have no [sites.{strange[0]}]; declare its units there if it takes "
            "part, or take the file out of the exchange folder"
        )
    digest = ceremony_digest(federation, hospitals)
    key = FederationKey.generate(encrypted=federation.scheme.encrypted, epoch=number)
    return Epoch(
        number, digest, predecessor, steward.name, coordinators[0], hospitals, commitment=key.commitment, key=key
    )


def _steward_enrols(federation: Federation, exchange: Path, keys: KeyFolder, given: Mapping[str, str]) -> list[str]:
    identity, epoch = keys.holdings.identity, keys.holdings.latest
    if epoch is None:
        if newest_epoch(exchange, "roster") >= 0:
            raise ConfigError(f"{exchange}: holds a roster already; a new federation needs an empty exchange folder")
        cards = {name: read_card(exchange, name) for name in card_names(exchange)}
        others = [card for name, card in cards.items() if name != identity.name]
        # What else is wrong is said before anybody compares fingerprints.
        epoch = _found_epoch(federation, identity, cards, 0, b"")
        confirm(exchange, others, given)
    elif ceremony_digest(federation, epoch.hospitals) != epoch.federation_digest:
        raise ConfigError(f"other settings than those of epoch {epoch.number}; use the same file, or rotate the keys")
    else:
        read_people(exchange, Roster.of(epoch.steward, epoch.coordinator, epoch.hospitals.values()))
    return _settle(exchange, keys, epoch)


def _send_grants(exchange: Path, steward: Identity, epoch: Epoch) -> None:
    """Write every hospital's grant, and the public roster last, where they are not there yet."""
    folder = epoch_folder(exchange, epoch.number)
    roster = Roster.of(epoch.steward, epoch.coordinator, epoch.hospitals.values())
    if epoch.key is None:
        raise TypeError("a steward holds the federation key")
    grant = Grant(epoch.key, roster, epoch.predecessor)
    for name, public in epoch.hospitals.items():
        path = folder / f"{name}.grant"
        if name != steward.name and not path.exists():
            publish(path, grant.seal_for(public, steward, epoch.federation_digest))
    path = folder / "roster"
    if not path.exists():
        publish(path, grant.notice(epoch.federation_digest).sign(steward))
    with naming(path):
        found = Notice.open(read_bounded(path, MAX_GRANT_BYTES), steward.public, epoch.federation_digest)
        if (found.commitment, found.roster) != (epoch.commitment, roster):
            raise MessageError("is of another key or roster than this epoch's; begin anew in an empty exchange folder")


def _others_enrol(
    federation: Federation, exchange: Path, keys: KeyFolder, steward_name: str, given: Mapping[str, str]
) -> list[str]:
    holdings, epoch = keys.holdings, keys.holdings.latest
    steward = _steward_of(exchange, holdings, steward_name, given) if _steward_ready(exchange, holdings) else None
    number, held = newest_epoch(exchange, _own_file(holdings)), -1 if epoch is None else epoch.number
    published = newest_epoch(exchange, "roster")
    if published > max(number, held):
        return [
            f"epoch {published} holds no grant for {holdings.identity.name}: ask {steward_name} whether it was left "
            "out, and run this again when it is there"
        ]
    if number > held and steward is not None:
        epoch = _accept(federation, exchange, holdings, steward, number)
    if epoch is None:
        return [f"waiting for {steward_name}'s grant: run this again when {steward_name} has enrolled"]
    if ceremony_digest(federation, epoch.hospitals) != epoch.federation_digest:
        raise ConfigError(f"other settings than those of epoch {epoch.number}; compare your file with the steward's")
    return _settle(exchange, keys, epoch)


def _steward_ready(exchange: Path, holdings: Holdings) -> bool:
    """Whether there is something of the steward's to check: before that nobody is asked for a fingerprint."""
    return holdings.latest is not None or newest_epoch(exchange, _own_file(holdings)) >= 0


def _steward_of(exchange: Path, holdings: Holdings, name: str, given: Mapping[str, str]) -> PublicIdentity:
    """The steward whose fingerprint this party has confirmed, now or in an earlier epoch."""
    if holdings.latest is not None:
        if holdings.latest.steward != name:
            raise ConfigError(f"--steward {name}: these keys were granted by {holdings.latest.steward}; name that one")
        return holdings.latest.hospitals[name]
    card = read_card(exchange, name)
    if card.coordinator:
        raise ConfigError(f"--steward {name}: the coordinator cannot be the steward; name a hospital")
    confirm(exchange, [card], given)
    return card.public


def _accept(federation: Federation, exchange: Path, holdings: Holdings, steward: PublicIdentity, number: int) -> Epoch:
    """Open the grant (a hospital) or the roster (the coordinator) of an epoch, and check all that belongs to it."""
    held, identity = holdings.latest, holdings.identity
    oldest = 0 if held is None else held.number
    path = epoch_folder(exchange, number) / _own_file(holdings)
    data = read_bounded(path, MAX_GRANT_BYTES)
    with naming(path):
        if holdings.is_coordinator:
            key = None
            notice = Notice.open(
                data, steward, lambda roster: ceremony_digest(federation, roster.hospitals), oldest=oldest
            )
        else:
            grant = Grant.open(
                data, identity, steward, lambda roster: ceremony_digest(federation, roster.hospitals), oldest=oldest
            )
            key, notice = grant.key, grant.notice(ceremony_digest(federation, grant.roster.hospitals))
        if notice.epoch != number:
            raise MessageError(f"is of epoch {notice.epoch}, though it lies in {path.parent.name}; refused")
        if held is not None and number == held.number + 1 and notice.predecessor != held.federation_digest:
            raise MessageError(f"does not follow the epoch {held.number} that is held here; ask {steward.name}")
        if key is not None:
            federation.scheme.check_key(key.he_key)
    people = read_people(exchange, notice.roster)
    coordinator = people.pop(notice.roster.coordinator)
    if holdings.is_coordinator and coordinator != identity.public:
        raise MessageError(
            f"{path}: names {coordinator.name!r} as coordinator, not {identity.name!r}; ask {steward.name}"
        )
    return Epoch(
        number,
        notice.federation_digest,
        notice.predecessor,
        steward.name,
        coordinator,
        people,
        commitment=notice.commitment,
        key=key,
    )


def _own_file(holdings: Holdings) -> str:
    return "roster" if holdings.is_coordinator else f"{holdings.identity.name}.grant"


def _new_pairs(exchange: Path, identity: Identity, epoch: Epoch) -> dict[str, bytes]:
    """The pair secrets that are not held yet: made here, or received. Raises MessageError naming a file refused."""
    folder, own = epoch_folder(exchange, epoch.number), identity.name
    pairs: dict[str, bytes] = {}
    for name, public in epoch.hospitals.items():
        if name in epoch.pair_secrets:
            continue
        path = folder / f"{name}--{own}.pair"
        if name == own:
            pairs[name] = Secret(fresh_key())
        elif makes_pair(own, name):
            sent = folder / f"{own}--{name}.pair"
            if sent.exists() or sent.is_symlink():
                raise MessageError(
                    f"{sent}: was sent, but its secret is not held here (keys restored from an old copy?); ask "
                    f"{epoch.steward} to rotate the keys"
                )
            pairs[name] = Secret(fresh_key())
        elif path.exists() or path.is_symlink():
            data = read_bounded(path, PAIR_BYTES)
            with naming(path):
                pairs[name] = open_pair(
                    data, identity, public, federation_digest=epoch.federation_digest, epoch=epoch.number
                )
    return pairs


def _send_pairs(exchange: Path, identity: Identity, epoch: Epoch) -> None:
    for name, secret in epoch.pair_secrets.items():
        path = epoch_folder(exchange, epoch.number) / f"{identity.name}--{name}.pair"
        if makes_pair(identity.name, name) and not path.exists():
            digest = epoch.federation_digest
            sealed = seal_pair(secret, identity, epoch.hospitals[name], federation_digest=digest, epoch=epoch.number)
            publish(path, sealed)


def _settle(exchange: Path, keys: KeyFolder, epoch: Epoch, removed: tuple[str, ...] | None = None) -> list[str]:
    """Complete the pairs as far as they go, write this party's file, then send what is its to send."""
    holdings = keys.holdings
    if not holdings.is_coordinator:
        epoch = epoch.with_pairs(_new_pairs(exchange, holdings.identity, epoch))
    after = Holdings(
        holdings.identity,
        holdings.is_coordinator,
        holdings.with_epoch(epoch).epochs,
        holdings.removed if removed is None else removed,
    )
    keys.save(after)
    if not holdings.is_coordinator:
        _send_pairs(exchange, holdings.identity, epoch)
    if holdings.identity.name == epoch.steward:
        _send_grants(exchange, holdings.identity, epoch)
    return standing(exchange, after, epoch)


def standing(exchange: Path, holdings: Holdings, epoch: Epoch) -> list[str]:
    """How far a party has come in an epoch, in lines for people."""
    lines = [
        f"epoch {epoch.number}: {len(epoch.hospitals)} hospitals, steward {epoch.steward}, coordinator "
        f"{epoch.coordinator.name}, key commitment {short(epoch.commitment)}"
    ]
    lines += [
        f"note: {card_file(exchange, name)} is not in this epoch: left out, or new (`keys rotate` admits it)"
        for name in card_names(exchange)
        if name not in epoch.people and name.isprintable()
    ]
    missing = [name for name in sorted(epoch.hospitals) if name not in epoch.pair_secrets]
    if holdings.is_coordinator or not missing:
        return [*lines, "complete"]
    return [*lines, f"waiting for pair secrets from {', '.join(missing)}: run this again when they have enrolled"]
