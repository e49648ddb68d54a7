"""What a training run is asked for, and the rows that it is fed with."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toys
import zstandard
from transformers import AutoTokenizer

from ropesearch.core.errors import InputError
from ropesearch.training.data import Rows, TokenFile, make_rows, prepare_tokens, tokens_digest
from ropesearch.training.sources import Source, find_sources
from ropesearch.training.spec import Stage, TrainSpec, parse_stage, preset_stages


def spec(length=32, rows=8, **options):
    stages = options.pop("stages", (Stage(None, length, length * rows),))
    return TrainSpec(stages=stages, batch_tokens=options.pop("batch_tokens", length), **options)


def token_file(*sources):
    """Sources with documents of the given sizes; every token is its place in the file, so that rows can be traced."""
    sizes = [size for source in sources for size in source]
    ends = np.cumsum([len(source) for source in sources])
    names = [
        (f"source {i}", int(end - len(source)), int(end))
        for i, (source, end) in enumerate(zip(sources, ends, strict=True))
    ]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return TokenFile("", np.arange(starts[-1], dtype=np.uint32), starts, tuple(names))


def test_spec_is_what_its_dict_says():
    made = spec(stages=(Stage("abf:1e6", 32, 64), Stage(None, 64, 128)), batch_tokens=64, upsample_long=True)
    again = TrainSpec(**json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert [made.steps(stage) for stage in made.stages] == [1, 2]
    assert [made.rows_per_step(stage) for stage in made.stages] == [2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be a finite number above 0, not 0"),
        ({"beta2": 1}, "beta2 must be a number from 0 to less than 1, not 1"),
        ({"keep_short": 0}, "keep_short must be a number above 0 and at most 1"),
        ({"schedule": "cosin"}, "did you mean cosine?"),
        ({"batch_tokens": 48}, "batch_tokens must be a multiple of the length 32, not 48"),
        ({"batch_tokens": 512}, "tokens must be at least one step of 512"),
        ({"mask_documents": 1}, "mask_documents must be true or false"),
        ({"stages": ()}, "stages must be at least one stage"),
        (
            {"stages": (Stage(None, 64, 64), Stage(None, 32, 64)), "batch_tokens": 64},
            "the length of a stage must not fall: 64 is followed by 32",
        ),
    ],
)
def test_spec_refuses(options, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        spec(**options)


def test_stages_are_read():
    assert parse_stage("1e6:32768:1e9") == Stage("abf:1e6", 32768, 10**9)
    assert parse_stage("harpe:a:b.json:64:128") == Stage("harpe:a:b.json", 64, 128)
    assert parse_stage("own:64:128") == Stage("own", 64, 128) == Stage(None, 64, 128)
    assert preset_stages("abf-multi-stage", 10) == (
        Stage("abf:1e6", 32768, 4), Stage("abf:2e6", 65536, 4), Stage("abf:5e6", 131072, 4),
    )  # fmt: skip
    assert [stage.tokens for stage in preset_stages("abf-multi-stage")] == [2 * 10**9] * 3  # Table 1 of the paper
    assert preset_stages("harpe") == (Stage("table2", 131072, 6 * 10**9),)
    for text, message in [
        ("1e6:32768", "base:length:tokens"),
        ("0.5:64:128", "finite number above 1"),
        ("1e6:x:128", "length must be"),
        ("1e6:64:0", "tokens must be a whole number of at least 1"),
    ]:
        with pytest.raises(InputError, match=message):
            parse_stage(text)
    with pytest.raises(InputError, match="did you mean abf-multi-stage"):
        preset_stages("abf-multistage", 10)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    toys.save_with_tokenizer(toys.toy("llama-grouped"), folder)
    return AutoTokenizer.from_pretrained(folder)


DOCUMENTS = ["w1 w2 w3", "w4", " \n", "w5 w6"]


def write(folder):
    lines = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(DOCUMENTS))
    (folder / "a.jsonl").write_text(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    pq.write_table(pa.table({"text": DOCUMENTS, "other": [1.5] * 4}), folder / "d.parquet")
    (folder / "e.txt").write_text("w7 w8\n\nw9\n")
    (folder / "picture.png").write_bytes(b"not text")


def texts(path, text_key="text"):
    return [text for text, _ in Source.find(path).documents(text_key)]


def test_every_kind_of_file_gives_its_documents(tmp_path, tokenizer):
    write(tmp_path)
    whole = [text for text in DOCUMENTS if text.strip()]
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        assert texts(tmp_path / name) == whole
    assert texts(tmp_path / "e.txt") == ["w7 w8\n\nw9\n"]
    assert texts(tmp_path) == whole * 4 + ["w7 w8\n\nw9\n"]

    sources = find_sources([tmp_path / "a.jsonl", tmp_path / "e.txt"])
    digest = tokens_digest(sources, tokenizer, "text")
    prepare_tokens(sources, tokenizer, tmp_path / "tokens", digest)
    file = TokenFile.open(tmp_path / "tokens")
    assert file.digest == digest
    assert file.tokens.dtype == np.uint16
    assert file.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert file.starts.tolist() == [0, 3, 4, 6, 9]
    assert file.document_name(3) == f"document 0 of {tmp_path / 'e.txt'}"

    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "w1"}) + "\n")
    assert tokens_digest(sources, tokenizer, "text") != digest


def test_sources_that_cannot_be_used(tmp_path, tokenizer):
    write(tmp_path)
    (tmp_path / "blank.jsonl").write_text(json.dumps({"text": " "}) + "\n")
    (tmp_path / "nothing_in.jsonl").write_text("")
    (tmp_path / "cut.jsonl").write_text('{"text": "a"}\n{"text": "b')
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("nothing.jsonl", "does not exist"),
        ("empty", "has no text in it"),
        ("picture.png", "is not text that can be read"),
    ]:
        with pytest.raises(InputError, match=message):
            find_sources([tmp_path / name])
    with pytest.raises(InputError, match="must name text"):
        find_sources([])
    with pytest.raises(InputError, match=r"has no column 'txt', only text, n; did you mean text\?"):
        texts(tmp_path / "a.jsonl", "txt")
    with pytest.raises(InputError, match="'n' must be text in every row"):
        texts(tmp_path / "a.jsonl", "n")
    with pytest.raises(InputError, match=r"cut\.jsonl cannot be read"):
        texts(tmp_path / "cut.jsonl")
    for name, vocabulary, message in [
        ("blank.jsonl", None, "has no text"),
        ("nothing_in.jsonl", None, "has no text"),
        ("a.jsonl", 3, "do not belong together"),
    ]:
        sources = find_sources([tmp_path / name])
        with pytest.raises(InputError, match=message):
            prepare_tokens(sources, tokenizer, tmp_path / "tokens", "", vocabulary=vocabulary)
        assert not (tmp_path / "tokens").exists()


def test_values_of_a_column_are_sources_of_their_own(tmp_path, tokenizer):
    rows = [("w1 w2", "web"), ("w3", "books"), ("w4 w5 w6", "web"), ("w7", "books")]
    with open(tmp_path / "a.jsonl", "w") as out:
        for text, name in rows:
            out.write(json.dumps({"text": text, "from": name, "meta": {"set": name}}) + "\n")
    (tmp_path / "b.txt").write_text("w8 w9")
    sources = find_sources([tmp_path / "a.jsonl", tmp_path / "b.txt"])
    digests = {tokens_digest(sources, tokenizer, "text", key) for key in (None, "from", "meta.set")}
    assert len(digests) == 3
    for key in ("from", "meta.set"):
        prepare_tokens(sources, tokenizer, tmp_path / key, "", source_key=key)
        file = TokenFile.open(tmp_path / key)
        assert file.tokens.tolist() == [1, 2, 4, 5, 6, 3, 7, 8, 9]
        assert file.starts.tolist() == [0, 2, 5, 6, 7, 9]
        name = str(tmp_path / "a.jsonl")
        assert file.sources == ((f"{name} (web)", 0, 2), (f"{name} (books)", 2, 4), (str(tmp_path / "b.txt"), 4, 5))
    for key, message in [("meta.st", r"no column 'meta\.st'"), ("meta", "'meta' must be text in every row")]:
        with pytest.raises(InputError, match=message):
            prepare_tokens(sources, tokenizer, tmp_path / "no", "", source_key=key)
    many = [json.dumps({"text": "w1", "n": str(i)}) + "\n" for i in range(101)]
    (tmp_path / "a.jsonl").write_text("".join(many))
    with pytest.raises(InputError, match="'n' has more than 100 values, too many for sources"):
        prepare_tokens(sources, tokenizer, tmp_path / "no", "", source_key="n")


def traced(file, rows):
    """Every piece as (document, from, to) in its document, row by row."""
    found = []
    for row in range(len(rows)):
        begin, size = rows.pieces(row)
        documents = rows.documents(file, row)
        found.append(
            [(d, b - file.starts[d], b - file.starts[d] + n) for d, b, n in zip(documents, begin, size, strict=True)]
        )
    return found


def test_rows_are_full_and_use_every_token_once_a_pass():
    sizes = np.random.default_rng(0).integers(1, 90, 200)
    file = token_file(sizes)
    made = spec(length=32, rows=int(sizes.sum()) // 32 - 8)  # not all: what is taken out of turn is of a later pass
    rows = make_rows(file, made, 0)
    used = np.concatenate([rows.tokens(file, row) for row in range(len(rows))])
    assert all(len(rows.tokens(file, row)) == 32 for row in range(len(rows)))
    assert np.bincount(used, minlength=sizes.sum()).max() <= 2


def test_documents_are_whole_where_they_fit():
    sizes = np.random.default_rng(3).lognormal(3.5, 1, 2000).astype(int) + 1
    file = token_file(sizes[sizes <= 256])
    rows = make_rows(file, spec(length=256, rows=200), 0)
    whole = [b == 0 and e == file.starts[d + 1] - file.starts[d] for row in traced(file, rows) for d, b, e in row]
    assert np.mean(whole) > 0.94  # 0.68 where documents follow one another and are cut where a row ends

    file = token_file([1000, 5])
    pieces = traced(file, make_rows(file, spec(length=32, rows=16), 0))
    long = [(b, e) for row in pieces for d, b, e in row if d == 0]
    for (_, end), (begin, _) in pairwise(long):
        assert begin in (end, 0)  # a document longer than a row goes on where it was cut


def test_rows_follow_from_seed_and_data_alone(tmp_path):
    file = token_file(np.random.default_rng(1).integers(1, 60, 400))
    rows, again, other = (make_rows(file, spec(rows=40, seed=seed), 0) for seed in (5, 5, 6))
    assert np.array_equal(rows.begin, again.begin)
    assert not np.array_equal(rows.begin[:50], other.begin[:50])
    two = spec(stages=(Stage(None, 32, 1280), Stage(None, 32, 1280)), seed=5)
    assert not np.array_equal(make_rows(file, two, 1).begin[:50], rows.begin[:50])
    rows.save(tmp_path / "rows.npz")
    read = Rows.load(tmp_path / "rows.npz")
    assert all(np.array_equal(getattr(read, name), value) for name, value in vars(rows).items())


def test_sources_keep_their_shares_and_long_documents_gain():
    random = np.random.default_rng(2)
    mixed, short = [*random.integers(1, 50, 6000), *[100] * 600], random.integers(1, 50, 3000)
    file = token_file(mixed, short)
    n_mixed = len(mixed)
    shares = {}
    for upsample in (False, True):
        rows = make_rows(file, spec(length=100, rows=2000, upsample_long=upsample, long_from=100, keep_short=0.1), 0)
        begin, size = rows.begin, rows.size
        documents = np.searchsorted(file.starts, begin, side="right") - 1
        long = np.diff(file.starts)[documents] >= 100
        of_first = documents < n_mixed
        shares[upsample] = size[of_first].sum() / size.sum(), size[long].sum() / size[of_first].sum()
    expected = sum(mixed) / file.starts[-1]
    assert shares[False][0] == pytest.approx(expected, abs=0.02)
    assert shares[True][0] == pytest.approx(expected, abs=0.02)
    natural = 600 * 100 / sum(mixed)
    assert shares[False][1] == pytest.approx(natural, abs=0.04)
    # Of the short ones a tenth is kept.
    assert shares[True][1] == pytest.approx(natural / (natural + 0.1 * (1 - natural)), abs=0.04)


def test_less_than_one_row_is_refused():
    with pytest.raises(InputError, match="the data has 31 tokens, which is less than one row of 32"):
        make_rows(token_file([31]), spec(length=32), 0)
