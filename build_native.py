"""Builds the CPU kernels where a compiler is at hand; without them the package works, slower."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OPTIONS = ["-O3", "-std=c++17", "-fPIC", "-fopenmp"]
# Sums must round as torch rounds them, so nothing is contracted; without errno and traps loops become wide.
NUMBERS = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
# Without OpenMP's own library and without Python's: at run time what torch and Python have loaded is found.
LINKED = ["-shared"] if sys.platform != "darwin" else ["-shared", "-undefined", "dynamic_lookup"]


class NativeHook(BuildHookInterface):
    """Adds the module ``kernels/_native`` to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; on any failure say so and go on."""
        source = Path(self.root, "src/alphabar/kernels/module.cpp")
        library = source.with_name("_native" + sysconfig.get_config_var("EXT_SUFFIX"))
        library.unlink(missing_ok=True)
        if trouble := _compile(source, library):
            print(
                f"alphabar: no CPU kernels were built ({trouble}); plain torch takes their place",
                file=sys.stderr,
            )
            return
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compile(source: Path, library: Path) -> str:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "no C++ compiler was found"
    objects = library.with_suffix(".o")
    headers = ["-I", sysconfig.get_paths()["include"]]
    compile_it = [*compiler.split(), *OPTIONS, *NUMBERS, *headers, "-c", str(source), "-o", str(objects)]
    link_it = [*compiler.split(), *LINKED, str(objects), "-o", str(library)]
    try:
        for command in (compile_it, link_it):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[0]
    finally:
        objects.unlink(missing_ok=True)
    return ""
