"""What a training program finds around it, as in the containers of SageMaker and Vertex: folders, variables, arguments.

Source of the names and spellings: aws/sagemaker-training-toolkit at 3383937, ``environment.py`` (``to_env_vars``),
``mapping.py`` (``to_cmd_args``, ``to_env_vars``) and ``params.py``; Vertex AI, "Custom container requirements".
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

HOST = "algo-1"
_GROUP = "homogeneousCluster"
_INSTANCE = "local"


@dataclass(frozen=True)
class Container:
    """The surroundings of one run. ``root`` is the folder as the program sees it, which may be mounted elsewhere.

    ``program`` is its path below ``root/code``, ``channels`` the names of the folders with rows.
    """

    root: PurePosixPath
    program: str
    params: Mapping[str, Any]
    channels: tuple[str, ...]
    job: str
    gpus: int = 0

    def channel(self, name: str) -> str:
        """Folder of a channel."""
        return str(self.root / "code" if name == "code" else self.root / "input" / "data" / name)

    @cached_property
    def arguments(self) -> list[str]:
        """``--name value`` for each parameter, in order of the names, spelt as SageMaker's toolkit spells them."""
        spelt: list[str] = []
        for name in sorted(self.params):
            spelt += [f"--{name}" if len(name) > 1 else f"-{name}", _argument(self.params[name])]
        return spelt

    @cached_property
    def resources(self) -> dict[str, Any]:
        """What ``resourceconfig.json`` says: one host."""
        group = {"instance_group_name": _GROUP, "instance_type": _INSTANCE, "hosts": [HOST]}
        return {
            "current_host": HOST,
            "current_instance_type": _INSTANCE,
            "current_group_name": _GROUP,
            "current_instance_group": _GROUP,
            "hosts": [HOST],
            "instance_groups": [group],
            "network_interface_name": "lo",
        }

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What ``inputdataconfig.json`` says."""
        told = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
        return dict.fromkeys(self.channels, told)

    def prepare(self, here: Path) -> None:
        """Make the folders and configuration files in ``here``, which the program sees as ``root``.

        Values of ``hyperparameters.json`` are text, JSON inside JSON, as SageMaker writes them.
        """
        for name in ("model", "output/data", "output/intermediate", "input/config", "input/data"):
            (here / name).mkdir(parents=True, exist_ok=True)
        config = here / "input" / "config"
        values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.params.items()}
        for name, content in (
            ("hyperparameters", values),
            ("resourceconfig", self.resources),
            ("inputdataconfig", self.inputs),
        ):
            (config / f"{name}.json").write_text(json.dumps(content), "utf-8")

    def variables(self) -> dict[str, str]:
        """The environment variables of SageMaker and Vertex."""
        found = {f"SM_{name.upper()}": _variable(value) for name, value in self._sagemaker().items()}
        found |= {
            "SAGEMAKER_BASE_DIR": str(self.root),
            "SAGEMAKER_PROGRAM": self.program,
            "SAGEMAKER_SUBMIT_DIRECTORY": str(self.root / "code"),
            "SAGEMAKER_JOB_NAME": self.job,
            "TRAINING_JOB_NAME": self.job,
            "CURRENT_HOST": HOST,
        }
        return found | self._vertex()

    def _sagemaker(self) -> dict[str, Any]:
        module = self.program.removesuffix(".py").replace("/", ".")
        folders = {
            "input_dir": str(self.root / "input"),
            "input_config_dir": str(self.root / "input" / "config"),
            "output_dir": str(self.root / "output"),
            "output_data_dir": str(self.root / "output" / "data"),
            "output_intermediate_dir": str(self.root / "output" / "intermediate"),
            "model_dir": str(self.root / "model"),
        }
        told = {
            **folders,
            "module_dir": str(self.root / "code"),
            "module_name": module,
            "user_entry_point": self.program,
            "hosts": [HOST],
            "current_host": HOST,
            "current_instance_type": _INSTANCE,
            "current_instance_group": _GROUP,
            "current_instance_group_hosts": [HOST],
            "instance_groups": [_GROUP],
            "instance_groups_dict": {_GROUP: self.resources["instance_groups"][0]},
            "distribution_instance_groups": [],
            "is_hetero": False,
            "network_interface_name": "lo",
            "num_cpus": os.cpu_count() or 1,
            "num_gpus": self.gpus,
            "num_neurons": 0,
            "log_level": 20,
            "framework_module": None,
            "framework_params": {},
            "channels": sorted(self.channels),
            "resource_config": self.resources,
            "input_data_config": self.inputs,
        }
        whole = {**told, "channel_input_dirs": {name: self.channel(name) for name in self.channels}}
        told |= {"hps": dict(self.params), "user_args": self.arguments}
        told["training_env"] = {
            **{name: value for name, value in whole.items() if name not in ("channels", "user_entry_point")},
            "hyperparameters": dict(self.params),
            "job_name": self.job,
            "is_master": True,
            "master_hostname": HOST,
        }
        told |= {f"channel_{name}": self.channel(name) for name in self.channels}
        return told | {f"hp_{name}": value for name, value in self.params.items()}

    def _vertex(self) -> dict[str, str]:
        """Local paths where Vertex gives ``gs://`` addresses."""
        return {
            "AIP_MODEL_DIR": str(self.root / "model"),
            "AIP_CHECKPOINT_DIR": str(self.root / "output" / "intermediate"),
            "AIP_TENSORBOARD_LOG_DIR": str(self.root / "output" / "data"),
            "CLOUD_ML_JOB_ID": self.job,
        }


def _variable(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _argument(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={item}" for name, item in sorted(value.items()))
    return str(value)
