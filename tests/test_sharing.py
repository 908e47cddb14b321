"""A delta as a thing that people share: exported, pushed, loaded from anywhere, stacked; read by stock libraries."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

import ptuning
from ptuning.backbones.load import backbone_hash, input_names, load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.cli import main as cli
from ptuning.deltas.card_data import gather_facts, public_base
from ptuning.deltas.description import write_description
from ptuning.deltas.export import export
from ptuning.deltas.format import describe_backbone, read_delta, save_delta
from ptuning.deltas.loading import load_run
from ptuning.deltas.model_card import write_card
from ptuning.errors import BackboneError, RunError
from ptuning.selection.select import select
from ptuning.selection.subset import choose_weights
from ptuning.selection.subset_grammar import parse_subset
from ptuning.tasks.glue import TASKS
from support.running import ROOT, TINY, Run, run_in

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "modernbert", "albert")
TEXTS = ["the dog sleeps", "a cat is on the mat and sees him", "no"]
OTHERS = ["an animal sleeps", "there is a cat", "yes it is so"]

STOCK = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ptuning":
            raise ImportError("ptuning is blocked")
sys.meta_path.insert(0, Blocked())
try:
    import ptuning
except ImportError:
    pass
else:
    raise SystemExit("ptuning was importable")
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
job, answers = json.loads(sys.stdin.read()), {}
with torch.inference_mode():
    for name, folder in job["hf"].items():
        classify = pipeline("text-classification", folder, truncation=True, top_k=None)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        said = [classify({"text": a, "text_pair": b}) for a, b in job["rows"]]
        batch = tokenizer(*map(list, zip(*job["rows"])), padding=True, truncation=True, return_tensors="pt")
        answers[name] = {"pipeline": said, "logits": model(**batch).logits.tolist()}
    for name, (folder, backbone, labels) in job["peft"].items():
        from peft import PeftModel
        plain = AutoModelForSequenceClassification.from_pretrained(
            backbone, num_labels=labels, ignore_mismatched_sizes=True
        )
        tokenizer = AutoTokenizer.from_pretrained(backbone, model_max_length=60)
        batch = tokenizer(*map(list, zip(*job["rows"])), padding=True, truncation=True, return_tensors="pt")
        answers[name] = {"logits": PeftModel.from_pretrained(plain, folder)(**batch).logits.tolist()}
assert not any(name.split(".")[0] == "ptuning" for name in sys.modules)
print(json.dumps(answers))
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These models are too small for two threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> "Shelf":
    return Shelf(tmp_path_factory.mktemp("shelf"))


class Shelf:
    """Backbones as folders, and deltas of them that were made up instead of trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def backbone(self, family: str = "bert") -> Path:
        """A small random model of a family, as people have them: config, weights, tokenizer."""
        folder = self.folder / f"tiny-{family}"
        if not folder.exists():
            source = find_backbone("random:tiny", config={**SIZES, "model_type": family})
            load_model(source, TASKS["rte"], seed=5).base_model.save_pretrained(folder)
            load_tokenizer(source).save_pretrained(folder)
        return folder

    def delta(
        self,
        module: str | Sequence[str],
        task: str = "rte",
        family: str = "bert",
        layers: str = "all",
        salt: int = 0,
        subset: str = "all",
        patterns: Sequence[str] = (),
    ) -> Path:
        """A delta whose every value differs from the backbone's."""
        label = "+".join([module] if isinstance(module, str) else module)
        folder = self.folder / f"{family}-{task}-{label}{len(patterns)}-{layers}-{salt}-{subset}"
        if folder.exists():
            return folder
        path = str(self.backbone(family))
        source = find_backbone(path)
        model = load_model(source, TASKS[task], seed=salt)
        digest = backbone_hash(model)
        chosen = select(model, module, layers, patterns=patterns)
        generator = torch.Generator().manual_seed(salt)
        moved = {*chosen.names, *chosen.head_names}
        values = {
            name: p.detach() + 0.1 * torch.randn(p.shape, generator=generator)
            for name, p in model.named_parameters()
            if name in moved
        }
        indices: dict[str, torch.Tensor] = {}
        if subset != "all":
            pretrained = {name: model.get_parameter(name) for name in chosen.names}
            indices = choose_weights(parse_subset(subset), pretrained)
            values |= {name: values[name].view(-1)[index] for name, index in indices.items()}
        folder.mkdir()
        described = {
            "backbone": describe_backbone(source, path, digest),
            "task": task,
            "labels": list(TASKS[task].labels),
            "source": "synthetic",
            "module": label,
            "layers": layers,
            "subset": subset,
            "max_length": 60,
            "score": 0.5,
            "epoch": 1.0,
        }
        save_delta(folder, values, described, indices)
        return folder


def batch_of(model: Any, tokenizer: Any, first: Sequence[str] = TEXTS, second: Sequence[str] = OTHERS) -> Any:
    encoded = tokenizer(list(first), list(second), padding=True, return_tensors="pt", return_token_type_ids=True)
    return {name: encoded[name] for name in input_names(model)}


def logits_of(folder: Path, backbone: Path | None = None) -> torch.Tensor:
    model, tokenizer = ptuning.load(folder, backbone=backbone)
    with torch.inference_mode():
        return model(**batch_of(model, tokenizer)).logits


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


# Export


@pytest.mark.slow
def test_exported_models_load_with_stock_libraries_alone_and_answer_the_same(shelf: Shelf, tmp_path: Path) -> None:
    deltas = {
        "rte": shelf.delta("layernorm"),
        "mnli": shelf.delta("ffn", "mnli"),
        "stsb": shelf.delta(["query", "bias"], "stsb"),
        "roberta": shelf.delta("attention", "mnli", "roberta"),
        "modernbert": shelf.delta("layernorm", "rte", "modernbert"),
    }
    job: dict[str, Any] = {"rows": list(zip(TEXTS, OTHERS, strict=True)), "hf": {}, "peft": {}}
    for name, folder in deltas.items():
        loaded = load_run(folder)
        export(loaded, "hf", tmp_path / "hf" / name)
        job["hf"][name] = str(tmp_path / "hf" / name)
        if name in ("rte", "mnli"):
            export(loaded, "peft", tmp_path / "peft" / name)
            job["peft"][f"{name} peft"] = [
                str(tmp_path / "peft" / name),
                str(shelf.backbone()),
                len(loaded.task.labels),
            ]
    done = subprocess.run(
        [sys.executable, "-I", "-c", STOCK],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for name, folder in deltas.items():
        logits = logits_of(folder)
        for found in (name, f"{name} peft"):
            if found in answers:
                torch.testing.assert_close(torch.tensor(answers[found]["logits"]), logits, rtol=0, atol=1e-5)
        labels = TASKS[load_run(folder).task.name].labels
        for row, said in zip(logits, answers[name]["pipeline"], strict=True):
            expected = row.softmax(-1).tolist() if labels else row.tolist()
            scores = {one["label"]: one["score"] for one in said}
            assert list(scores) == sorted(scores, key=lambda label: -scores[label])
            assert scores == pytest.approx(dict(zip(labels or ["score"], expected, strict=True)), abs=1e-5)


def test_an_exported_model_cuts_texts_where_the_run_did(shelf: Shelf, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    export(load_run(shelf.delta("layernorm")), "hf", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer("a " * 500, truncation=True)["input_ids"]) == 60
    assert len(tokenizer("a")["input_ids"]) == 3  # and neither cuts nor pads by itself


@pytest.mark.parametrize(
    ("module", "family", "layers"),
    [
        ("layernorm", "bert", "1"),
        ("query", "bert", "all"),
        ("bias", "bert", "all"),
        (("bias", "ffn"), "bert", "all"),
        ("full", "bert", "all"),
        ("embeddings", "distilbert", "all"),
        ("prediction_head", "modernbert", "all"),
        ("bias", "albert", "all"),
        ("layernorm_gain", "bert", "all"),
        ("layernorm_bias", "bert", "all"),
        *(("layernorm", family, "all") for family in FAMILIES if family not in ("bert", "albert")),
    ],
)
def test_peft_holds_what_it_can_hold_exactly(
    shelf: Shelf, tmp_path: Path, module: str | tuple[str, ...], family: str, layers: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    delta = shelf.delta(module, "mnli", family, layers)
    export(load_run(delta), "peft", tmp_path / "adapter")
    plain = AutoModelForSequenceClassification.from_pretrained(shelf.backbone(family), num_labels=3)
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    with torch.inference_mode():
        found = adapted(**batch_of(plain, load_run(delta).tokenizer)).logits
    torch.testing.assert_close(found, logits_of(delta), rtol=0, atol=1e-5)
    with torch.inference_mode():
        merged = adapted.merge_and_unload()(**batch_of(plain, load_run(delta).tokenizer)).logits
    torch.testing.assert_close(merged, logits_of(delta), rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == ("BEFT" if module in ("bias", ("bias", "ffn")) else "LN_TUNING")
    assert "classifier" in config["modules_to_save"]
    if (module, family) == ("layernorm", "bert"):
        size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
        assert size < 4 * (delta / "delta.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("patterns", "subset", "method"),
    [
        (["query.weight"], "top:2%", "SHIRA"),
        (["query.weight", "intermediate.dense.weight", "LayerNorm"], "random:20", "SHIRA"),  # LayerNorms beside it
        (["query.weight"], "not:top:2%", "LN_TUNING"),  # so many that a copy is smaller
        (["query"], "top:4", "LN_TUNING"),  # the bias moved too, which SHiRA cannot hold
        (["word_embeddings"], "random:5", "LN_TUNING"),
    ],
)
def test_peft_holds_a_subset_as_small_as_it_can(
    shelf: Shelf, tmp_path: Path, patterns: list[str], subset: str, method: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    delta = shelf.delta("custom", "mnli", subset=subset, patterns=patterns)
    export(load_run(delta), "peft", tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == method
    plain = AutoModelForSequenceClassification.from_pretrained(shelf.backbone(), num_labels=3)
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    batch = batch_of(plain, load_run(delta).tokenizer)
    with torch.inference_mode():
        torch.testing.assert_close(adapted(**batch).logits, logits_of(delta), rtol=0, atol=1e-5)
        torch.testing.assert_close(adapted.merge_and_unload()(**batch).logits, logits_of(delta), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "family", "told"),
    [("frozen", "bert", "the head alone"), ("relative_positions", "deberta-v2", "PEFT cannot hold")],
)
def test_what_peft_cannot_hold_is_refused_with_what_can(
    shelf: Shelf, tmp_path: Path, module: str, family: str, told: str
) -> None:
    with pytest.raises(RunError, match=told) as refused:
        export(load_run(shelf.delta(module, "rte", family)), "peft", tmp_path / "adapter")
    assert "--to delta and --to hf" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_delta_folder_is_small_and_loads_where_its_backbone_is_named(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTUNING_FULL_ERROR", "0")
    delta, out = shelf.delta("layernorm"), tmp_path / "shared"
    code, said, warned = command(capsys, "export", delta, "--to", "delta", "--out", out)
    assert code == 0
    assert "delta.safetensors" in said
    assert "others need its weights from you" in warned
    assert sum(path.stat().st_size for path in out.iterdir()) < 10_000
    assert {path.name for path in out.iterdir()} == {"delta.safetensors", "delta.json", "README.md"}
    assert str(shelf.folder) not in (out / "delta.json").read_text() + (out / "README.md").read_text()

    with pytest.raises(BackboneError, match=r"no folder \./tiny-bert.*backbone=FOLDER"):
        ptuning.load(out)
    assert torch.equal(logits_of(out, shelf.backbone()), logits_of(delta))
    with pytest.raises(RunError, match="fits only the backbone"):
        ptuning.load(out, backbone=_another_backbone(tmp_path))
    code, _, complaint = command(capsys, "export", delta, "--to", "delta", "--out", out)
    assert (code, complaint.count("\n")) == (2, 1)
    assert "exists already" in complaint

    code, _, _ = command(capsys, "export", delta, "--to", "delta", "--out", tmp_path / "b", "--base", "me/tiny")
    assert code == 0
    assert read_delta(tmp_path / "b")[1].backbone.path == "me/tiny"
    assert ModelCard.load(tmp_path / "b" / "README.md").data.base_model == "me/tiny"


def _another_backbone(folder: Path) -> Path:
    source = find_backbone("random:tiny", config={**SIZES, "model_type": "bert", "initializer_range": 0.5})
    load_model(source, TASKS["rte"], seed=5).save_pretrained(folder / "another")
    load_tokenizer(source).save_pretrained(folder / "another")
    return folder / "another"


def test_the_same_weights_with_another_tokenizer_or_configuration_are_another_backbone(
    shelf: Shelf, tmp_path: Path
) -> None:
    def changed(name: str, file: str, change: Callable[[Any], Any]) -> Path:
        folder = shutil.copytree(shelf.backbone(), tmp_path / name)
        values = json.loads((folder / file).read_text())
        change(values)
        (folder / file).write_text(json.dumps(values))
        return folder

    def swap(values: dict[str, Any]) -> None:
        vocabulary = values["model"]["vocab"]
        one, other = list(vocabulary)[-2:]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]

    common = (*TINY[1:], "task=rte", "task.max_length=32", "trainer.max_steps=1")
    run = run_in(tmp_path / "runs", f"backbone={shelf.backbone()}", *common).path
    export(load_run(run), "delta", tmp_path / "delta")
    others = {
        "num_attention_heads=4, but": changed("heads", "config.json", lambda c: c.update(num_attention_heads=2)),
        "hidden_act=gelu, but": changed("act", "config.json", lambda c: c.update(hidden_act="relu")),
        "another tokenizer than": changed("words", "tokenizer.json", swap),
    }
    for told, folder in others.items():
        for delta in (run, tmp_path / "delta"):
            with pytest.raises(RunError, match=f"was trained with {told}"):
                ptuning.load(delta, backbone=folder)
        with pytest.raises(RunError, match=f"was trained with {told}"):
            ptuning.load(folder, deltas={"rte": run})
    harmless = {
        "transformers_version": "9",
        "id2label": {"0": "x", "1": "y"},
        "use_cache": False,
        "hidden_dropout_prob": 0.3,
    }
    harmless |= {"architectures": ["BertModel"], "_name_or_path": "x", "dtype": "float16", "initializer_range": 0.1}
    same = changed("same", "config.json", lambda c: c.update(harmless))
    assert torch.equal(logits_of(run, same), logits_of(tmp_path / "delta", shelf.backbone()))
    described = json.loads((run / "delta.json").read_text())
    for key in ("tokenizer", "computing"):
        del described["backbone"][key]
    write_description(run, described)  # as version 0.1.0 wrote it
    ptuning.load(run, backbone=others["another tokenizer than"])


def test_a_packaged_backbone_and_one_from_the_cache_are_named_by_their_hub_ids(shelf: Shelf, tmp_path: Path) -> None:
    loaded = load_run(shelf.delta("layernorm"))
    for path, name, revision in (
        ("packaged:minilm", "sentence-transformers/all-MiniLM-L6-v2", None),
        ("/home/x/.cache/huggingface/hub/models--me--my-bert/snapshots/0a1b2c", "me/my-bert", "0a1b2c"),
        ("bert-base-uncased", "bert-base-uncased", None),
        ("random:tiny", "random:tiny", None),
    ):
        backbone = replace(loaded.description.backbone, path=path)
        found = public_base(replace(loaded, description=replace(loaded.description, backbone=backbone)))
        assert (found.name, found.revision) == (name, revision)
    assert not found.on_hub


# Loading by Hub id


@pytest.mark.parametrize("kind", ["hf", "peft", "delta"])
def test_an_export_names_its_backbone_as_others_know_it_and_no_path_of_this_machine(
    shelf: Shelf, tmp_path: Path, kind: str
) -> None:
    loaded = load_run(shelf.delta("layernorm"))
    for base, out in ((None, tmp_path / "folder"), ("me/my-bert", tmp_path / "hub")):
        export(loaded, kind, out, base_name=base)
        for file in out.iterdir():
            assert str(shelf.folder).encode() not in file.read_bytes(), file
        if kind == "peft":
            config = json.loads((out / "adapter_config.json").read_text())
            assert config["base_model_name_or_path"] == (base or "./tiny-bert")


def test_a_folder_typed_as_a_relative_path_is_no_hub_id_wherever_it_is_exported(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bert").symlink_to(shelf.backbone())
    monkeypatch.chdir(tmp_path)
    run = run_in(tmp_path / "runs", *TINY[1:], "backbone=models/bert", "task=rte", "task.max_length=32")
    delta = json.loads((run.path / "delta.json").read_text())
    assert delta["backbone"]["path"] == "./models/bert"
    monkeypatch.chdir("/")
    assert public_base(load_run(run.path, tmp_path / "models" / "bert")).name == "./bert"
    delta["backbone"]["path"] = "models/bert"  # as version 0.1.0 wrote it
    write_description(run.path, delta)
    assert public_base(load_run(run.path, tmp_path / "models" / "bert")).name == "./bert"


def test_a_pushed_delta_loads_by_its_hub_id_from_the_cache(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--me--rte-layernorm"
    snapshot = repository / "snapshots" / ("0" * 40)
    export(load_run(shelf.delta("layernorm")), "delta", snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    model, tokenizer = ptuning.load("me/rte-layernorm", backbone=shelf.backbone())
    with torch.inference_mode():
        found = model(**batch_of(model, tokenizer)).logits
    assert torch.equal(found, logits_of(shelf.delta("layernorm")))
    with pytest.raises(RunError, match=r"no folder me/other, and no delta 'me/other'"):
        ptuning.load("me/other")
    with pytest.raises(RunError, match="There is no folder me/other"):
        ptuning.load("./me/other")


# The card


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two seeds of one training on MNLI's look-alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTUNING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        runs = tmp_path_factory.mktemp("trained")
        common = (*TINY, "task=mnli", "data.sizes.train=48", "trainer.max_epochs=1")
        return [run_in(runs, *common, f"seed={seed}") for seed in (1, 2)]


@pytest.mark.parametrize("kind", ["hf", "delta"])
def test_the_card_says_what_moved_how_well_with_which_seeds_and_on_what(
    trained: list[Run], tmp_path: Path, kind: str
) -> None:
    run = trained[0]
    export(load_run(run.path), kind, tmp_path / "out", name="me/model", licence="apache-2.0")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    values = card.data.to_dict()
    assert values["license"] == "apache-2.0"
    assert values["library_name"] == {"hf": "transformers", "delta": "ptuning"}[kind]
    assert values["pipeline_tag"] == "text-classification"
    assert "synthetic-data" in values["tags"]
    assert "datasets" not in values
    results = {result.dataset_split: result for result in card.data.eval_results}
    assert set(results) == {"validation_matched", "validation_mismatched"}
    for split, result in results.items():
        name = split.replace("validation", "accuracy")
        assert result.metric_value == pytest.approx(run.record["best"][name], abs=1e-6)
        assert (result.metric_type, result.dataset_type) == ("accuracy", "synthetic")
        assert result.dataset_name == "Synthetic MNLI"
    assert "**The data were synthetic**" in card.text
    scores = [100 * one.record["score"] for one in trained]
    assert f"{scores[0]:.1f} (seed 1), {scores[1]:.1f} (seed 2)" in card.text
    mean = sum(scores) / 2
    assert f"with 2 seeds: {mean:.1f} ± {abs(scores[0] - scores[1]) / 2**0.5:.1f}" in card.text
    assert f"{run.record['trainable_parameters']:,} of {run.record['total_parameters']:,}" in card.text
    assert '"me/model"' in card.text
    again = load_run(tmp_path / "out") if kind == "delta" else None
    if again:  # an exported delta carries what the card wants to say
        export(again, "delta", tmp_path / "again", name="me/model", licence="apache-2.0")
        assert (tmp_path / "again" / "README.md").read_text() == (tmp_path / "out" / "README.md").read_text()


def test_the_f1_of_all_classes_is_no_f1_of_another_split(trained: list[Run]) -> None:
    loaded = load_run(trained[0].path)
    task = replace(TASKS["rte"], name="mine", metrics=("f1", "f1_macro"), score_of=("f1",))
    facts = replace(gather_facts(loaded), metrics={"f1": 0.5, "f1_macro": 0.4})
    card = write_card("delta", "me/model", task, facts, public_base(loaded), 60)
    found = {(one.metric_type, one.dataset_split, one.metric_value) for one in card.data.eval_results}
    assert found == {("f1", "validation", 0.5), ("f1_macro", "validation", 0.4)}


def test_the_card_of_a_run_on_glue_has_it_in_its_model_index(trained: list[Run], tmp_path: Path) -> None:
    shutil.copytree(trained[0].path, tmp_path / "run")
    for name in ("record.json", "delta.json"):
        path = tmp_path / "run" / name
        path.write_text(path.read_text().replace('"source": "synthetic"', '"source": "hub"'))
    write_description(tmp_path / "run", json.loads((tmp_path / "run" / "delta.json").read_text()))  # with its digest
    export(load_run(tmp_path / "run"), "delta", tmp_path / "out")
    values = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    dataset = values["model-index"][0]["results"][0]["dataset"]
    assert dataset == {
        "name": "GLUE MNLI",
        "type": "nyu-mll/glue",
        "config": "mnli",
        "split": "validation_matched",
    }
    assert values["datasets"] == ["nyu-mll/glue"]
    assert "synthetic" not in (tmp_path / "out" / "README.md").read_text().lower()
    assert "license" not in values


def test_the_card_says_that_a_score_or_a_training_is_on_a_part_of_the_data(tmp_path: Path) -> None:
    common = (*TINY, "task=mrpc", "data.sizes.train=48", "data.sizes.validation=40", "trainer.max_epochs=1")
    for overrides, part, has_results in (
        (["trainer.limit_val_batches=1", "data.eval_batch_size=8"], "scored on 8 of 40 rows", False),
        (["data.train_rows=20"], "trained on 20 rows (data.train_rows)", True),
        ([], "", True),
    ):
        run = run_in(tmp_path / "runs", *common, *overrides)
        out = tmp_path / run.path.name
        export(load_run(run.path), "delta", out)
        card = ModelCard.load(out / "README.md")
        assert ("On a part of the data" in card.text) == bool(part)
        assert part in card.text
        assert ("model-index" in card.data.to_dict()) == has_results
        export(load_run(out), "delta", tmp_path / f"{run.path.name} again", name=f"./{out.name}")
        assert (tmp_path / f"{run.path.name} again" / "README.md").read_text() == (out / "README.md").read_text()
        facts = json.loads((out / "delta.json").read_text())
        for key in ("part", "scored_in_part"):  # which version 0.1.0 does not write
            del facts["run"][key]
        write_description(out, facts)
        assert gather_facts(load_run(out)).part == (part if "scored" in part else "")


def test_the_code_on_the_card_runs(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_run(shelf.delta("layernorm"))
    shutil.copytree(shelf.backbone(), tmp_path / "tiny-bert")
    monkeypatch.chdir(tmp_path)
    for kind in ("hf", "peft", "delta"):
        export(loaded, kind, tmp_path / kind)
        code = (tmp_path / kind / "README.md").read_text().split("```python\n")[1].split("```")[0]
        names: dict[str, Any] = {}
        exec(code, names)
        if kind != "hf":
            with torch.inference_mode():
                found = names["model"](**batch_of(loaded.model, names["tokenizer"])).logits
            torch.testing.assert_close(found, logits_of(shelf.delta("layernorm")), rtol=0, atol=1e-5)


def test_the_licence_is_that_of_the_backbones_own_card(shelf: Shelf, tmp_path: Path) -> None:
    delta = shelf.delta("layernorm")
    backbone = tmp_path / "tiny-bert"
    shutil.copytree(shelf.backbone(), backbone)
    (backbone / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    export(load_run(delta, backbone), "delta", tmp_path / "out")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license == "mit"


# Push


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's HTTP as an upload needs; keeps what it is sent."""

    received: dict[str, Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server: Any = self.server
        if self.headers.get("Authorization") != "Bearer hf_write":
            return self._answer(403, {"error": "You have read but not write access."})
        if self.path == "/api/repos/create":
            server.received["repository"] = json.loads(body)
            return self._answer(200, {"url": f"{server.address}/me/rte-layernorm"})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if self.path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            server.received["files"] = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            return self._answer(200, {"commitUrl": f"{server.address}/me/rte-layernorm/commit/1", "commitOid": "1"})
        return self._answer(200, {"errors": [], "warnings": []})  # /api/validate-yaml

    def do_GET(self) -> None:
        self._answer(200, {"id": "me/rte-layernorm", "sha": "0" * 40, "siblings": []})

    def _answer(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.received, server.address = {}, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_push_uploads_the_folder_with_its_card(
    shelf: Shelf, tmp_path: Path, hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    delta = shelf.delta("layernorm")
    code, said, warned = command(capsys, "push", delta, "me/rte-layernorm", "--as", "delta", "--private")
    assert code == 0, warned
    assert f"{hub.address}/me/rte-layernorm" in said
    assert hub.received["repository"]["name"] == "rte-layernorm"
    assert hub.received["repository"].get("private") is True or hub.received["repository"]["visibility"] == "private"
    files = hub.received["files"]
    assert set(files) == {"delta.safetensors", "delta.json", "README.md"}
    assert 'ptuning.load("me/rte-layernorm"' in files["README.md"].decode()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(logits_of(tmp_path, shelf.backbone()), logits_of(delta))


def test_what_is_in_the_way_of_a_push_is_one_sentence_with_the_mend(
    shelf: Shelf, hub: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    delta = shelf.delta("layernorm")

    def refused(*arguments: str) -> str:
        code, out, complaint = command(capsys, "push", delta, *arguments, "--as", "delta")
        assert (code, out, complaint.count("\n")) == (2, "", 1)
        return complaint

    assert "OWNER/NAME" in refused("model")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    complaint = refused("me/rte-layernorm")
    assert "read but not write" in complaint
    assert "token" in complaint
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "hf auth login" in refused("me/rte-layernorm")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert "does not answer" in refused("me/rte-layernorm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refused("me/rte-layernorm")
    assert "files" not in hub.received


def test_a_dry_run_writes_the_folder_and_sends_nothing(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    code, said, _ = command(capsys, "push", shelf.delta("layernorm"), "me/rte", "--as", "hf", "--dry-run")
    assert code == 0
    assert "Nothing was sent" in said
    assert "me/rte (public" in said
    assert "model.safetensors" in said
    assert 'pipeline("text-classification", "me/rte")' in (tmp_path / "rte" / "README.md").read_text()


# Stacks


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_a_stack_answers_as_its_deltas_do_whichever_is_in_use(shelf: Shelf, family: str) -> None:
    deltas = {
        "rte": shelf.delta("layernorm", "rte", family),
        "mnli": shelf.delta("attention", "mnli", family, salt=1),
        "stsb": shelf.delta("frozen", "stsb", family, salt=2),
    }
    alone = {name: logits_of(folder) for name, folder in deltas.items()}
    stack = ptuning.load(str(shelf.backbone(family)), deltas=deltas)
    batch = batch_of(stack.model, stack.tokenizer)
    for name in ("rte", "mnli", "stsb", "mnli", "rte", "stsb", "rte"):
        model = stack.use(name)
        with torch.inference_mode():
            assert torch.equal(model(**batch).logits, alone[name])
        assert torch.equal(stack(batch), alone[name])
        assert model.config.num_labels == TASKS[name].num_outputs
        assert stack.current == name


def test_deltas_of_some_weights_stand_in_stacks_and_are_counted_on_cards(shelf: Shelf, tmp_path: Path) -> None:
    common = (*TINY, f"backbone={shelf.backbone()}", "task.max_length=60", "trainer.max_epochs=1")
    few = run_in(tmp_path / "few", *common, "module=layernorm", "subset=top:5")
    many = run_in(tmp_path / "many", *common, "task=mnli", "module=query", "subset=random:10%")
    deltas = {"rte": few.path, "mnli": many.path}
    alone = {name: logits_of(folder) for name, folder in deltas.items()}
    stack = ptuning.load(str(shelf.backbone()), deltas=deltas)
    batch = batch_of(stack.model, stack.tokenizer)
    for name in ("rte", "mnli", "rte"):
        with torch.inference_mode():
            assert torch.equal(stack.use(name)(**batch).logits, alone[name])
    long = " ".join(TEXTS) * 40
    _, tokenizer = ptuning.load(few.path)
    assert [len(one(long, truncation=True)["input_ids"]) for one in (tokenizer, stack.tokenizer)] == [60, 60]
    assert few.record["trainable_parameters"] == 2 * 4 * 5  # of two blocks, two LayerNorms' weights and biases
    for run in (few, many):
        export(load_run(run.path), "delta", tmp_path / run.record["task"])
        card = (tmp_path / run.record["task"] / "README.md").read_text()
        assert f"{run.record['trainable_parameters']:,} of {run.record['total_parameters']:,}" in card
        (run.path / "record.json").unlink()  # counted from the delta alone
        export(load_run(run.path), "delta", tmp_path / "bare" / run.record["task"])
        assert (
            f"{run.record['trainable_parameters']:,} of"
            in (tmp_path / "bare" / run.record["task"] / "README.md").read_text()
        )


@pytest.mark.parametrize("module", ["layernorm", "layernorm_gain", "bias"])
@pytest.mark.parametrize("family", [*FAMILIES, pytest.param("gpt2", marks=pytest.mark.slow)])
def test_rows_of_one_batch_each_meet_their_own_delta(shelf: Shelf, family: str, module: str) -> None:
    if module == "bias" and family in ("modernbert", "deberta-v2", "gpt2"):
        pytest.skip("no biases to select" if family == "modernbert" else "refused: tested below")
    deltas = {
        "rte": shelf.delta(module, "rte", family),
        "mnli": shelf.delta("layernorm", "mnli", family, salt=1),
        "stsb": shelf.delta("frozen", "stsb", family, salt=2),
    }
    alone = {name: logits_of(folder) for name, folder in deltas.items()}
    stack = ptuning.load(str(shelf.backbone(family)), deltas=deltas)
    stack.use("mnli")
    batch = batch_of(stack.model, stack.tokenizer)
    for tasks in (["rte", "mnli", "stsb"], ["stsb", "stsb", "rte"], ["mnli", "mnli", "mnli"]):
        rows = stack(batch, tasks=tasks)
        for number, (row, name) in enumerate(zip(rows, tasks, strict=True)):
            torch.testing.assert_close(row, alone[name][number], rtol=0, atol=1e-5)
    assert stack.current == "mnli"
    assert torch.equal(stack(batch), alone["mnli"])  # a mixed batch leaves nothing behind


def test_a_stack_says_what_it_cannot_do(shelf: Shelf, tmp_path: Path) -> None:
    base = str(shelf.backbone())
    stack = ptuning.load(base, deltas={"rte": shelf.delta("layernorm"), "mnli": shelf.delta("query", "mnli")})
    batch = batch_of(stack.model, stack.tokenizer)
    with pytest.raises(RunError, match=r"query\.weight.*only LayerNorms and biases.*stack\.use"):
        stack(batch, tasks=["rte", "mnli", "rte"])
    assert len(stack(batch, tasks=["rte"] * 3)) == 3  # what is not asked for is not in the way
    with pytest.raises(RunError, match="names 1 deltas for 3 rows"):
        stack(batch, tasks=["rte"])
    with pytest.raises(RunError, match="Did you mean 'mnli'"):
        stack.use("mnlu")
    with pytest.raises(RunError, match="is empty"):
        ptuning.load(base, deltas={})
    with pytest.raises(RunError, match="fits only the backbone"):
        ptuning.load(str(_another_backbone(tmp_path)), deltas={"rte": shelf.delta("layernorm")})
    shared = ptuning.load(
        str(shelf.backbone("deberta-v2")),
        deltas={"a": shelf.delta("bias", "rte", "deberta-v2"), "b": shelf.delta("layernorm", "rte", "deberta-v2")},
    )
    with pytest.raises(RunError, match="all rows of a batch share"):
        shared(batch_of(shared.model, shared.tokenizer), tasks=["a", "b", "a"])
    assert torch.equal(
        shared(batch_of(shared.model, shared.tokenizer)), logits_of(shelf.delta("bias", "rte", "deberta-v2"))
    )


def test_a_stack_holds_the_backbone_once(shelf: Shelf) -> None:
    deltas = {f"{salt}": shelf.delta("layernorm", salt=salt) for salt in range(4)}
    stack = ptuning.load(str(shelf.backbone()), deltas=deltas)
    frozen = "bert.encoder.layer.0.attention.self.query.weight"
    before = stack.model.get_parameter(frozen).data_ptr()
    pointers = set()
    for name in deltas:
        stack.use(name)
        assert stack.model.get_parameter(frozen).data_ptr() == before
        pointers.add(stack.model.get_parameter("bert.encoder.layer.0.output.LayerNorm.weight").data_ptr())
    assert len(pointers) == len(deltas)  # exchanged, not overwritten


# The wheel


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_lists_predicts_and_loads(shelf: Shelf, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q", str(wheel)],
        check=True,
    )
    # The libraries come from the environment at hand: a path in a .pth file, whose own .pth files are not followed.
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str, given: str = "") -> str:
        done = subprocess.run(
            arguments, input=given, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    program = str(tmp_path / "venv" / "bin" / "ptuning")
    assert "layernorm" in run(program, "modules", "backbone=tiny")
    delta = str(shelf.delta("layernorm"))
    answers = run(program, "predict", delta, given="a text\tanother\n")
    assert json.loads(answers)["label"] in TASKS["rte"].labels
    load = f"import ptuning; model, _ = ptuning.load({delta!r}); print(ptuning.__file__, type(model).__name__)"
    where, kind = run(str(python), "-c", load).split()
    assert where.startswith(str(site))
    assert kind == "BertForSequenceClassification"


@pytest.mark.parametrize(
    ("overrides", "said", "unsaid"),
    [
        (["module=frozen"], ["with all weights frozen but a new head."], ["those of"]),
        (["module=full"], ["with all weights trained, and a new head.", "at epoch 1, the best evaluation"], ["frozen"]),
        (
            ["module=query", "layers=1", "subset=top:30", "subset_scope=selection", "data.select_on=holdout"],
            [
                "those of `query` (layers 1, subset top:30 of the selection) and a new head.",
                "| module | `query`, layers 1, subset top:30 of the selection |",
                "at epoch 1, chosen on a tenth of train that was held out",
            ],
            ["the best evaluation"],
        ),
        (
            ["module=custom", "module.patterns=[value.bias,'query|key']", "subset=top:3"],
            ["those of `custom` (subset top:3) and a new head.", r"| patterns | `query\|key`, `value.bias` |"],
            ["of the selection"],
        ),
    ],
)
def test_the_card_says_what_trained_and_what_chose_the_epoch(
    tmp_path: Path, overrides: list[str], said: list[str], unsaid: list[str]
) -> None:
    common = (*TINY, "task=rte", "data.sizes.train=48", "data.sizes.validation=16", "trainer.max_epochs=1")
    run = run_in(tmp_path / "runs", *common, *overrides)
    export(load_run(run.path), "delta", tmp_path / "out", name="me/model")
    page = (tmp_path / "out" / "README.md").read_text()
    assert all(words in page for words in said), page
    assert not any(words in page for words in unsaid), page
    export(load_run(tmp_path / "out"), "delta", tmp_path / "again", name="me/model")
    assert (tmp_path / "again" / "README.md").read_text() == page


def test_an_export_of_before_says_no_more_on_its_card_than_it_knows(trained: list[Run], tmp_path: Path) -> None:
    export(load_run(trained[0].path), "delta", tmp_path / "out")
    values = json.loads((tmp_path / "out" / "delta.json").read_text())
    for key in ("select_on", "patterns"):
        del values["run"][key]
    write_description(tmp_path / "out", values | {"subset": "top:9", "subset_scope": "selection"})
    facts = gather_facts(load_run(tmp_path / "out"))
    assert (facts.select_on, facts.patterns, facts.subset) == ("", (), "top:9 of the selection")
    page = str(write_card("delta", "me/model", TASKS["mnli"], facts, public_base(load_run(tmp_path / "out")), 60))
    assert "at epoch 1 (" in page
