"""A server whose extensions are in a private folder: PostgreSQL finds its files relative to its
program. Programs that start a server are copies, and all other files are links."""

import os
import shutil
import subprocess
from pathlib import Path

import cluster as clusters


class Mirror:
    """`extensions` is the folder of control files and scripts, `libraries` that of modules."""

    def __init__(self, folder, pg_config=clusters.PG_CONFIG):
        bin, share, libraries = (
            Path(subprocess.check_output([pg_config, f"--{what}"], text=True).strip())
            for what in ("bindir", "sharedir", "pkglibdir"))
        common = Path(os.path.commonpath([bin, share, libraries]))
        self.extensions = folder / share.relative_to(common) / "extension"
        self.libraries = folder / libraries.relative_to(common)
        self.bin = folder / bin.relative_to(common)
        self.server = self.bin / "postgres"
        _link(share, self.extensions.parent, but=("extension",))
        _link(share / "extension", self.extensions)
        _link(libraries, self.libraries)
        _link(bin, self.bin, but=("postgres", "pg_ctl"))
        for program in ("postgres", "pg_ctl"):
            shutil.copy2(bin / program, self.bin)
        # The modules of a Python wheel look for other libraries at a place relative to their own.
        for beside in common.parent.parent.glob("*.libs"):
            os.environ["LD_LIBRARY_PATH"] = str(beside)

    def remove_ours(self):
        """Makes it a server without our extension."""
        (self.libraries / "keysmith.so").unlink()
        for file in self.extensions.glob("keysmith*"):
            file.unlink()


def _link(source, folder, but=()):
    folder.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.name not in but:
            (folder / entry.name).symlink_to(entry)
