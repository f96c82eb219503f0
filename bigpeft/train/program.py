"""What a process runs: a hash of bigpeft's own files, and of any other one."""

import hashlib
from pathlib import Path

import bigpeft

MISSING = "missing"


def digest_of_code(folder: Path = Path(bigpeft.__file__).parent) -> str:
    """One hash over bigpeft's own files, 16 hexadecimal digits."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            total.update(f"{file.relative_to(folder)}\n{digest_of_file(file)}\n".encode())
    return total.hexdigest()[:16]


def digest_of_file(file: Path) -> str:
    """16 hexadecimal digits, or MISSING where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError:
        return MISSING
