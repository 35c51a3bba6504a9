"""Input that means harm, or asks for more than there is: one line or a page, and nothing runs, hangs or grows."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import checkpoints
import pandas as pd
import pytest
import torch
from page_parser import Page
from safetensors.torch import load_file, save_file
from synthetic import write_run

import posneurons as pn
from posneurons import cli
from posneurons.config import Config
from posneurons.errors import ModelError, NeuronError, PosNeuronsError, RunError, TreebankError
from posneurons.files import read_json, write_json
from posneurons.neuron_lists import read_neurons
from posneurons.neurons import NeuronSet
from posneurons.penn import load_ptb
from posneurons.report import build_report
from posneurons.steer_run import SteerConfig
from posneurons.study import run
from posneurons.sweep_plan import Plan
from posneurons.tagsets import read_classes
from posneurons.treebank import load_treebank

ATTACK = (
    "\"'><img src=x onerror=hacked()><svg onload=hacked()><script>hacked()</script></script>"
    "<a href=javascript:hacked()>"
)
ROW = "{}\ta\ta\tX\tX\t_\t{}\t_\t_\t{}\n"


class Payload:
    """What a pickle would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


class Live(HTMLParser):
    """What would run in a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "svg", "iframe", "object", "embed"):
            self.found.append(tag)
        self.found += [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]


def attacked(value: Any, kept: frozenset[str]) -> Any:
    """The same JSON with the attack after every text, names included, but for those whose name or value is kept."""
    if isinstance(value, dict):
        return {
            name if name in kept else name + ATTACK: each
            if name in kept and isinstance(each, str)
            else attacked(each, kept)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [attacked(each, kept) for each in value]
    return value + ATTACK if isinstance(value, str) else value


def test_no_text_of_a_run_is_live_in_its_page(tmp_path: Path) -> None:
    run = write_run(
        tmp_path, tags=("A", "B", "C"), positions=("predict",), n_layers=3, n_units=16, controls=3, n_pages=2
    )
    for path in run.glob("*.parquet"):
        frame = pd.read_parquet(path)
        for column in frame.select_dtypes(exclude="number").columns.difference(["set", "verdict"]):
            frame[column] += ATTACK
        frame.to_parquet(path)
    manifest = json.loads((run / "manifest.json").read_text())
    for part in ("config", "versions", "warnings", "notes"):
        manifest[part] = attacked(manifest[part], frozenset(manifest["config"]))
    for part in ("model", "treebank"):
        manifest[part] = attacked(manifest[part], frozenset([*manifest[part], "sentences", "words"]))
    manifest |= {name: manifest[name] + ATTACK for name in ("command", "created", "posneurons", "git", "platform")}
    manifest["dropped"] = [row | {"tag": row["tag"] + ATTACK, "reason": ATTACK} for row in manifest["dropped"]]
    keys = json.loads((run / "neurons.json").read_text())
    keys = {method + ATTACK: {tag + ATTACK: names for tag, names in tags.items()} for method, tags in keys.items()}
    probe = json.loads((run / "probe.json").read_text())
    fields = frozenset([*probe["results"][0], *probe["results"][0]["baselines"]["majority"], "results"])
    probe = attacked(probe, fields - {"at", "method"})
    probe = {"results": [{name.removesuffix(ATTACK): each for name, each in one.items()} for one in probe["results"]]}
    pages = json.loads((run / "neuron_pages.json").read_text())
    names = frozenset(
        ["side", "high", "low", "name", "pages", *pages["pages"][0], *pages["pages"][0]["contexts"][0], "rise", "words",
         "method", "rank", "scores"]
    )  # fmt: skip
    pages = attacked(pages, names)
    for name, content in (("manifest", manifest), ("neurons", keys), ("probe", probe), ("neuron_pages", pages)):
        (run / f"{name}.json").write_text(json.dumps(content))
    page = Page(build_report(run))
    assert page.html.count("hacked") > 100
    scripts = [attributes.get("type") for attributes in page.named("script")]
    ours = Path(pn.__file__).with_name("report.html").read_text(encoding="utf-8").count("<script>")
    assert scripts.count(None) == ours
    assert not [text for kind, text in zip(scripts, page.scripts, strict=True) if kind is None and "hacked" in text]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not [attributes for attributes in page.named("a") if "javascript:" in (attributes.get("href") or "")]
    assert not [tag for tag, _ in page.elements if tag in ("img", "svg")]
    for content in json.loads(page.packed("pages")).values():
        assert "hacked" in content["html"]
        assert Live(content["html"]).found == []
    figures = json.dumps([each["figure"] for each in page.figures().values()])  # menus are words of the page itself
    assert "hacked" in figures
    assert "<img" not in figures, figures[figures.index("<img") - 200 :][:300]
    assert "<a " not in figures


def test_the_parser_sees_what_is_live() -> None:
    assert Live(ATTACK).found == ["img", "onerror", "svg", "onload", "script", "href"]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: Config(top=10**12).check(), "--top 1000000000000: expected at most 1000000000"),
        (lambda: Config(controls=10**9).check(), "--controls 1000000000: expected at most 10000"),
        (lambda: Config(draws=10**12).check(), "--draws 1000000000000: expected at most 1000000"),
        (lambda: Config(batch_tokens=10**18).check(), f"--batch-tokens {10**18}: expected at most 1000000000"),
        (lambda: Config(batch_tokens=-1).check(), "--batch-tokens -1: expected at least 1"),
        (lambda: Config(seed=-1).check(), "--seed -1: expected at least 0"),
        (lambda: Config(seed=10**30).check(), f"--seed {10**30}: expected at most 4294967295"),
        (lambda: Config(margin=float("nan")).check(), "--margin nan: expected a number of nats above 0"),
        (lambda: Config(split=f"1/{'9' * 5000}").check(), "expected one of given, document"),
        (
            lambda: Config(methods=("integrated_gradients:steps=1000000000",)).check(),
            "steps=1000000000: expected a whole number of at most 1000",
        ),
        (lambda: Config(ablations=(f"resample:draws={'9' * 400}",)).check(), "at least 1 and at most 10000"),
        (lambda: Config(at="x" * 100_000).check(), "expected one of predict, first, last"),
        (lambda: Plan(ks=(10**12,)).check(), "--k 1000000000000: expected at most 1000000000"),
        (lambda: Plan(controls=10**9).check(), "--controls 1000000000: expected at most 10000"),
        (lambda: Plan(seed=10**30).check(), f"--seed {10**30}: expected at most 4294967295"),
        (lambda: SteerConfig("x", tokens=10**12).check(), "--tokens 1000000000000: expected at most 100000"),
        (lambda: SteerConfig("x", continuations=10**9).check(), "--continuations 1000000000: expected at most 100000"),
        (lambda: SteerConfig("x", value=float("nan")).check(), "--value nan: expected a finite number"),
        (lambda: load_treebank("x\x1b[31m\n.conllu"), r"x\x1b[31m .conllu: no such file or folder"),
    ],
)
def test_a_number_beyond_reason_is_one_line(made: Callable[[], object], sentence: str) -> None:
    with pytest.raises(PosNeuronsError) as caught:
        made()
    said = cli.one_line(caught.value)
    assert sentence in said
    assert said.isprintable()
    assert len(said) < cli.LONGEST + 10


@pytest.mark.parametrize("name", ["/dev/null", "{}/file", "{}/link", "{}/" + "x" * 300, "{}/file/x", "/proc/x"])
def test_an_out_that_is_no_folder_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    out = Path(name.format(tmp_path))
    with pytest.raises(RunError, match=re.escape(str(out))):
        run(Config(), out, stages=("rank",), progress=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_command_says_one_line_and_no_more(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "posneurons",
        "rank",
        "--treebank",
        "x\x1b[31m\n.conllu",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(r"posneurons: x\x1b[31m .conllu: no such file or folder; expected")
    assert done.stderr.count("\n") == 1


def test_a_path_that_is_no_text_can_stand_in_a_manifest(tmp_path: Path) -> None:
    run = write_run(tmp_path, n_pages=1, stages=("rank",))
    content = read_json(run / "manifest.json") | {"command": "posneurons run --treebank " + os.fsdecode(b"\xff")}
    write_json(run / "manifest.json", content)
    assert read_json(run / "manifest.json") == content
    assert "\\udcff" in build_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize("code", ["../../x", "..", "en_ewt/../../x", "\0", "\ud800", "e" * 70_000, " "])
def test_a_code_of_a_treebank_is_no_way_out_of_the_cache(tmp_path: Path, code: str) -> None:
    with pytest.raises(TreebankError):
        load_treebank(code, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_zip_that_is_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("../a.mrg", "w") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(TreebankError, match=r"x\.zip: more than 256 MiB are in it; unpack it and give the folder"):
        load_ptb(path, tag="xpos")
    assert [each.name for each in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("\n" * 300_000, "no sentence in this file"),
        ("1-999999999\tab\t_\t_\t_\t_\t_\t_\t_\t_\n" + ROW.format(1, 0, "_"), "a range up to 999999999, but the last"),
        (ROW.format("1-" * 300_000, 0, "_"), "expected a number, a range"),
        ("".join(ROW.format(n + 1, n + 2, "_") for n in range(20_000)), "head '20001'; expected 0, _ or the id"),
        ("# text = a\n" + ROW.format(1, 0, "SpacesAfter=\\ud800"), r"SpacesAfter='\\ud800'; expected white space"),
        ("# text = a\n" + ROW.format(1, 0, "SpacesAfter=" + "x" * 900_000), "SpacesAfter='xxx.*; expected white space"),
        ("# text = " + "b" * 900_000 + "\n" + ROW.format(1, 0, "_"), "form 'a', but `# text` is 'b"),
        ("# text = a " + "b" * 900_000 + "\n" + ROW.format(1, 0, "_"), "goes on after the last word: 'bbb"),
    ],
    ids=["blank", "range", "long id", "heads", "half a character", "words between", "long text", "text after"],
)
def test_long_files_are_one_short_line(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "x.conllu").write_text(content)
    with pytest.raises(TreebankError, match=sentence) as caught:
        load_treebank(tmp_path / "x.conllu")
    assert len(str(caught.value)) < 500


def test_features_beyond_number_are_read(tmp_path: Path) -> None:
    features = "|".join(f"F{n}=x" for n in range(50_000))
    (tmp_path / "x.conllu").write_text(f"1\ta\ta\tX\tX\t{features}\t0\t_\t_\t_\n")
    assert load_treebank(tmp_path / "x.conllu", tag="F49999").tag_counts() == {"x": 1}


@pytest.mark.parametrize("text", ["(" * 300_000, "( " * 200_000, "(a" + " " * 300_000, "x" * 3_000_000])
def test_brackets_without_end_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.mrg").write_text(text)
    with pytest.raises(
        TreebankError, match=r"a\.mrg:1: (the tree that begins here lacks|'x+' outside of its)"
    ) as caught:
        load_ptb(tmp_path, tag="xpos")
    assert len(str(caught.value)) < 500


def test_a_tree_of_any_depth_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.mrg").write_text("(S " * 50_000 + "(NN rain)" + ")" * 50_000)
    assert load_ptb(tmp_path, tag="xpos").tag_counts() == {"NN": 1}


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"a": "\udcff"}', "", "NaN", "[NaN]", "{}"]
)
def test_json_that_hurts_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, errors="surrogateescape")
    for read in (read_neurons, read_classes, lambda path: pn.load_model(str(path.parent))):
        (tmp_path / "config.json").write_bytes(path.read_bytes())
        with pytest.raises(PosNeuronsError) as caught:
            read(path)
        assert str(caught.value).startswith(str(tmp_path))
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name", ["L999999999N1", "L٣N٤", "L-1N1", "L+1N1", "L1_0N1", "L1N1\n", "L1N9999999999", "L1e3N1"]
)
def test_a_neuron_is_four_and_nine_plain_digits(name: str) -> None:
    with pytest.raises(NeuronError, match="expected a name such as"):
        NeuronSet.parse([name])


def test_a_short_list_asks_for_little_memory() -> None:
    tracemalloc.start()
    try:
        found = NeuronSet.parse(["L9999N999999999"])
        found.layer_profile(32)
        found.figure()
        assert tracemalloc.get_traced_memory()[1] < 256 * 2**20
    finally:
        tracemalloc.stop()


def test_one_neuron_twice_among_many_is_found() -> None:
    names = [f"L{n % 1000}N{n // 1000}" for n in range(50_000)]
    with pytest.raises(NeuronError, match="L999N49 is in it twice"):
        NeuronSet.parse([*names, names[-1]])


def test_a_tag_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"\\ud800": ["L0N1"]}')
    with pytest.raises(NeuronError, match=r"the name '\\ud800' holds half a character"):
        read_neurons(tmp_path / "x.json")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return checkpoints.write_llama(tmp_path / "model")


@pytest.mark.parametrize("inside", [True, False], ids=["among tensors", "alone"])
def test_a_pickle_does_not_run(llama: Path, tmp_path: Path, inside: bool) -> None:
    tensors = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    payload = Payload(tmp_path / "hacked")
    torch.save(tensors | {"model.x": payload} if inside else payload, llama / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"its \.bin file is no plain table of tensors, and could run code; save it as"
    ):
        pn.load_model(llama)
    assert not (tmp_path / "hacked").exists()
    torch.load(llama / "pytorch_model.bin", weights_only=False)  # it would have
    assert (tmp_path / "hacked").exists()


def test_a_pickle_does_not_run_in_stanza(tmp_path: Path) -> None:
    from posneurons.stanza_models import load_pipeline

    for part in ("tokenize", "pos"):
        torch.save({"model": Payload(tmp_path / "hacked"), "config": {}, "vocab": {}}, tmp_path / f"{part}.pt")
    with pytest.raises(TreebankError, match="Stanza's models for 'en' cannot be loaded"):
        load_pipeline("en", models=tmp_path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_does_not_run(llama: Path, tmp_path: Path, file: str, backend: Any) -> None:
    content = json.loads((llama / file).read_text())
    classes = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil"] * 2}
    changes = {"model_type": "evil", "architectures": ["EvilForCausalLM"], "tokenizer_class": "Evil"}
    (llama / file).write_text(json.dumps(content | changes | {"auto_map": classes}))
    (llama / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'hacked')!r})\n")
    with pytest.raises(ModelError, match="it needs Python code of its own, and none but that of transformers is run"):
        pn.load_model(llama, backend=backend)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["layers.0.self_attn.q_proj", "layers.1.mlp.down_proj", "embed_tokens", "norm"])
def test_a_weight_that_is_no_number_is_named(llama: Path, name: str, value: float) -> None:
    tensors = load_file(llama / "model.safetensors")
    tensors[f"model.{name}.weight"].view(-1)[-1] = value
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=rf"model\.{name}\.weight as torch.float32 holds NaN or infinity; expected number"
    ):
        pn.load_model(llama)


def test_numbers_whose_sum_is_too_large_are_numbers(llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    tensors["model.embed_tokens.weight"] += 1000.0  # 400 × 32 of them are more than float16 can say
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    assert pn.load_model(llama, dtype="float16").cfg.n_layers == 2


@pytest.mark.parametrize("layers", [10**9, 0, -1, "x", None, 1.5])
def test_a_number_of_layers_that_no_model_has_is_refused(llama: Path, layers: Any) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with pytest.raises(ModelError, match=r"layers in config\.json; expected 1 to 9999"):
        pn.load_model(llama)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", 3, None, "é" * 200, ""])
def test_an_index_names_files_of_its_own_folder(llama: Path, shard: Any) -> None:
    (llama / "model.safetensors").rename(llama.parent / "model.safetensors")
    (llama / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json is damaged; fetch the checkpoint again"):
        pn.load_model(llama)
