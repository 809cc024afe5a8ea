"""``data check``: every byte of a folder of shards compared with its hashes."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from modelwright.app.data.progress import counting_bytes
from modelwright.base.units import bytes_text
from modelwright.data.shards.damage import NOTE, Damage, note_of, wrong_hashes, wrong_sizes
from modelwright.data.shards.manifest import NAME, parse
from modelwright.data.shards.store import Store, open_store

Facts = dict[str, Any]


def check(path: str, *, quarantine: bool, console: Console) -> Facts:
    """Compare sizes and hashes of all files.

    Args:
        path: folder or URL.
        quarantine: note damaged shards in ``quarantine.json`` beside the manifest, for ``on_damage: quarantine``;
            where nothing is damaged, remove that note.
        console: shows a bar.

    Returns:
        Facts, JSON-ready; ``damaged`` names each file by its path.

    Raises:
        ModelwrightError: there are no shards, or the store cannot be reached.
    """
    store = open_store(path)
    content = store.read(NAME)
    manifest = parse(content, store.place(NAME))
    sizes = store.sizes()
    found = wrong_sizes(manifest, sizes)
    total, done = sum(file.bytes for file in manifest.files), 0
    with counting_bytes(console) as advance:

        def count(read: int) -> None:
            nonlocal done
            done += read
            advance("compare", done, total)

        found = sorted([*found, *wrong_hashes(manifest, store, found, count)])
    noted = _note(store, sizes, content, found) if quarantine else None
    damaged = [{"shard": each.shard, "path": store.place(each.file), "reason": each.reason} for each in found]
    shards = sum(map(len, manifest.splits.values()))
    return {"path": path, "shards": shards, "bytes": total, "damaged": damaged, "quarantine": noted}


def checked(facts: Facts) -> RenderableType:
    """What was found, as a table or a line."""
    if not facts["damaged"]:
        return f"{facts['shards']} shards, {bytes_text(facts['bytes'])}: every hash is right"
    made = Table("damaged", "what", box=None, pad_edge=False)
    for row in facts["damaged"]:
        made.add_row(escape(row["path"]), escape(row["reason"]))
    return made


def _note(store: Store, sizes: dict[str, int], content: bytes, found: list[Damage]) -> str | None:
    shards = [damage for damage in found if damage.shard]
    if shards:
        store.write(NOTE, note_of(content, shards))
        return store.place(NOTE)
    if NOTE in sizes:
        store.remove(NOTE)
    return None
