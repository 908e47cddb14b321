"""Whatever is typed, the answer is a plan or one sentence, soon: every key, with values of right and wrong kinds."""

import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ptuning.config.compose import config_folder
from ptuning.training.run import locate
from support.configurations import BASE, draw, quick_answer, sentence_of


def answer(overrides: list[str], runs: Path) -> str:
    """Return the sentence that ``train.py`` would print for overrides, or nothing if it would train."""
    return sentence_of(lambda: locate(compose("config", [*BASE, f"runs_dir={runs}", *overrides])))


@pytest.fixture(scope="module")
def base() -> DictConfig:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("config", list(BASE))


@pytest.mark.parametrize("begin", range(0, 300, 100))
def test_whatever_is_typed_is_a_plan_or_one_sentence(
    begin: int, base: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plans = 0
    for seed in range(begin, begin + 100):
        overrides, began = draw(seed), time.process_time()
        sentence = quick_answer(overrides, base)
        assert len(sentence) < 1500, overrides
        assert time.process_time() - began < 5, overrides
        plans += not sentence
    assert 10 < plans < 90
    assert not list(tmp_path.iterdir())


GIANTS = [
    (["layers=999999999999"], "names layer 999999999999"),
    (["subset=top:1e400"], "needs a number after top:"),
    ([f"seed={10**4000}"], "seed=1000"),
    ([f"seed=1{'0' * 5000}"], "too many digits"),
    ([f"backbone.config={'{a:' * 3000}1{'}' * 3000}"], "nested too deep"),
    (["backbone.config.num_hidden_layers=100000"], "describes 100,000 layers"),
    (["backbone.config.num_attention_heads=0"], "num_attention_heads=0 does not fit"),
    (["data.sizes.train=1000000000000"], "from 1 to 10,000,000"),
    (["data.name='a\udcff'"], "holds bytes that are no characters"),
    (["data.train='a\0b'"], "holds the character NUL"),
    (["layers='a\ud800'"], "holds bytes that are no characters"),
    (["runs_dir='~nobody-of-this-name/x'"], "has no home here"),
    (["job_timeout=inf"], "above 0 seconds"),
    (["backbone.config=${layers}"], "it takes names and values"),
    (["data.sizes=${layers}", "data.sizes.train=1"], "A key inside of"),
    (["backbone.config.model_type=[]"], "model_type=[] is not known"),
]


@pytest.mark.parametrize(("overrides", "told"), GIANTS, ids=range(len(GIANTS)))
def test_giants_are_one_sentence(
    overrides: list[str], told: str, base: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = quick_answer(overrides, base)
    assert told in sentence
    assert len(sentence) < 500
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("limit_train=500", "Did you mean 'data.train_rows', so many rows of train, or 'trainer.limit_train_batches'"),
        ("seeds=3", "Did you mean 'seed'?"),
        ("module=custom;module.patterns=['(.*.*.*)*!']", "takes more than a second"),
        ("~data=11", "A group takes the name of one of its choices"),
        (f"optim.lr={10**400}", "too many digits"),
        (f"layers={'[' * 3000}1{']' * 3000}", "nested too deep"),
    ],
    ids=range(6),
)
def test_what_hydra_itself_refuses_is_one_sentence(override: str, told: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        assert told in answer(override.split(";"), tmp_path)
