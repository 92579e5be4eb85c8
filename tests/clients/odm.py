# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The split-merge stages of ODM, run as a node runs them: `odm.py --split 2 --sm-cluster URL --project-path FOLDER`.

All that talks to the cluster is ODM's own, out of the checkout that the variable ODM names: `opendm/remote.py`, and of
`opendm/osfm.py` what that needs. Only what takes an engine is played: work that is done here takes LOCAL_SECONDS and
leaves the files that it should.
"""

from __future__ import annotations

import ast
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

ODM = Path(os.environ["ODM"])
SECONDS = float(os.environ.get("LOCAL_SECONDS", "1"))
#: What is taken of `opendm/osfm.py`, whose imports need the whole engine.
FUNCTIONS = ("get_submodel_argv", "get_submodel_args_dict")
METHODS = ("__init__", "path", "name", "is_reconstruction_done", "is_feature_matching_done")


def module(name: str, **members: Any) -> types.ModuleType:
    """Make a module that stands in for one that needs the engine."""
    new_module = sys.modules[name] = types.ModuleType(name)
    vars(new_module).update(members)
    return new_module


def osfm() -> None:
    """Make `opendm.osfm` of ODM's own code, without the methods that run the engine."""
    statements: list[ast.stmt] = []
    for node in ast.parse((ODM / "opendm/osfm.py").read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS:
            statements.append(node)
        elif isinstance(node, ast.ClassDef) and node.name == "OSFMContext":
            node.body = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name in METHODS]
            statements.append(node)
    from opendm import context, io, log, system  # type: ignore[import-not-found]

    osfm_module = module("opendm.osfm", os=os, sys=sys, context=context, io=io, log=log, system=system)
    exec(compile(ast.Module(statements, []), "osfm.py", "exec"), vars(osfm_module))

    def feature_matching(self: Any, rerun: bool = False) -> None:
        time.sleep(SECONDS)
        Path(self.path("features")).mkdir(exist_ok=True)
        Path(self.path("matches")).mkdir(exist_ok=True)

    def create_tracks(self: Any, rerun: bool = False) -> None:
        Path(self.path("tracks.csv")).write_text("tracks")

    def reconstruct(self: Any, *_: Any) -> None:
        Path(self.path("reconstruction.json")).write_text("[{}]")

    for method in (feature_matching, create_tracks, reconstruct):
        setattr(osfm_module.OSFMContext, method.__name__, method)


def split(submodels: Path, count: int) -> list[str]:
    """Make the folders that `create_submodels` makes; their paths."""
    folders = [submodels / f"submodel_{number:04}" for number in range(count)]
    for folder in folders:
        (folder / "images").mkdir(parents=True)
        (folder / "opensfm" / "exif").mkdir(parents=True)
        for image in range(2):
            (folder / "images" / f"{folder.name}_{image}.jpg").write_bytes(os.urandom(20_000))
            (folder / "opensfm" / "exif" / f"{folder.name}_{image}.jpg.exif").write_text("{}")
        for name in ("camera_models.json", "reference_lla.json"):
            (folder / "opensfm" / name).write_text("{}")
        (folder / "geo.txt").write_text("EPSG:4326\n")
    return [str(folder) for folder in folders]


def main() -> None:
    """Split, reconstruct, run the toolchain, merge: or, without a cluster, the toolchain of one submodel."""
    sys.path.insert(0, str(ODM))
    module("vmem", virtual_memory=None)
    from opendm import log  # isort: skip (first, as in run.py)
    from opendm import arghelpers

    module("opendm.utils", double_quote=arghelpers.double_quote)
    osfm()
    from opendm import config
    from opendm.remote import LocalRemoteExecutor  # type: ignore[import-not-found]

    args = config.config()
    if not args.sm_cluster:
        time.sleep(SECONDS)
        return
    paths = split(Path(args.project_path) / "submodels", int(os.environ.get("SUBMODELS", "4")))
    remote = LocalRemoteExecutor(args.sm_cluster, args.rolling_shutter, False)
    remote.set_projects(paths)
    remote.run_reconstruction()
    for path in paths:  # aligned, as far as there is something to align
        for name in ("reconstruction.json", "tracks.csv"):
            (Path(path) / "opensfm" / name).touch()
    remote = LocalRemoteExecutor(args.sm_cluster, args.rolling_shutter, False)
    remote.set_projects(paths)
    remote.run_toolchain()
    done = sum((Path(path) / "toolchain_completed.txt").exists() for path in paths)
    log.ODM_INFO(f"merged {done} of {len(paths)} submodels")


if __name__ == "__main__":
    main()
