"""Each configuration of configs/ is one that accelerate reads, and means what its name says."""

import re
import subprocess
from pathlib import Path

import pytest

accelerate_config = pytest.importorskip("accelerate.commands.config.config_args")

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
MEANT = {"1_gpu": ("NO", 1, 1), "8_gpus": ("MULTI_GPU", 1, 8), "slurm_4x8_fsdp": ("FSDP", 4, 32)}
SCRIPT = (CONFIGS / "slurm_4x8_fsdp.sh").read_text("utf-8")


def launched(name, *arguments):
    """Return the settings that ``accelerate launch`` arrives at with a configuration."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    path = CONFIGS / f"{name}.yaml"
    given = launch_command_parser().parse_args(["--config_file", str(path), *arguments, "-m", "alphabar"])
    return _validate_launch_command(given)[0]


def test_every_configuration_is_known_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == MEANT.keys()


@pytest.mark.parametrize("name", MEANT)
def test_accelerate_reads_it_as_it_is_meant(name):
    read = accelerate_config.load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    kind, machines, processes = MEANT[name]
    assert (read.distributed_type.value, read.num_machines, read.num_processes) == (kind, machines, processes)
    args = launched(name)
    assert (args.num_machines, args.num_processes) == (machines, processes)
    assert args.mixed_precision == "no"  # autocast twice would hide --precision
    assert args.use_fsdp == (kind == "FSDP")
    assert args.multi_gpu == (kind == "MULTI_GPU")


def test_the_processes_are_told_to_shard_the_network_as_one_unit():
    from accelerate.utils.launch import prepare_multi_gpu_env

    args = launched("slurm_4x8_fsdp", "--main_process_ip", "first", "--main_process_port", "29500")
    told = prepare_multi_gpu_env(args)
    assert told["ACCELERATE_USE_FSDP"] == "true"
    assert (told["FSDP_VERSION"], told["FSDP_AUTO_WRAP_POLICY"]) == ("2", "NO_WRAP")
    assert told["FSDP_RESHARD_AFTER_FORWARD"] == told["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert (args.nnodes, args.nproc_per_node, args.rdzv_endpoint) == ("4", "8", "first:29500")


def test_the_script_asks_for_the_machines_of_its_configuration():
    asked = dict(re.findall(r"#SBATCH --(nodes|gpus-per-node|ntasks-per-node)=(\d+)", SCRIPT))
    assert int(asked["nodes"]) == MEANT["slurm_4x8_fsdp"][1]
    assert int(asked["nodes"]) * int(asked["gpus-per-node"]) == MEANT["slurm_4x8_fsdp"][2]
    assert asked["ntasks-per-node"] == "1"  # accelerate starts a process a GPU


@pytest.mark.parametrize("begun", [False, True])
def test_the_script_resumes_where_there_is_a_checkpoint(begun, tmp_path):
    if begun:
        (tmp_path / "run/checkpoints/step-00000010").mkdir(parents=True)
    for name, says in {"scontrol": 'echo "one\ntwo"', "srun": 'printf "%s\\n" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{says}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    told = subprocess.run(
        ["bash", str(CONFIGS / "slurm_4x8_fsdp.sh"), "photos/", "--size", "64"],
        env={"PATH": path, "RUN": str(tmp_path / "run"), "SLURM_JOB_NODELIST": "[1-2]"},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.splitlines()
    own = told[told.index("alphabar") + 1 :]
    assert own[:6] == ["train", "photos/", "--size", "64", "--out", str(tmp_path / "run")]
    assert own[6:] == (["--resume"] if begun else [])
    launcher = told[: told.index("-m")]
    assert launcher[launcher.index("--main_process_ip") + 1] == "one"
    assert (ROOT / launcher[launcher.index("--config_file") + 1]).is_file()
