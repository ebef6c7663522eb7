import io
import pickle

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from oner_jax.data import records
from oner_jax.data import tokenizer as text
from oner_jax.data.tokenizer import (
    Tokenizer,
    caption_hash,
    normalised_caption,
    train_tokenizer,
)
from oner_jax.errors import InputError
from oner_jax.files import write_whole
from tests.data.samples import record, run_program, write_split

CAPTIONS = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("cat", "dog")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load("embedded")


def test_embedded_tokenizer_has_the_fixed_ids(tokenizer):
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.mask_id) == (0, 1, 2)
    assert tokenizer.vocabulary_size == 4096
    assert tokenizer.word_start.shape == (4096,)
    assert not tokenizer.word_start[:259].any()  # special ids and bytes


@pytest.mark.parametrize(
    "caption", ["Ferris Wheel", "GRÖSSER 漢字 😀", "CAFÉ  Ⅳ ﬁn", "don't stop", "naïve\tΔέλτα"]
)
def test_text_survives_up_to_normalisation(tokenizer, caption):
    ids = tokenizer.encode([caption], 64)
    assert tokenizer.decode(ids) == [normalised_caption(caption)]
    assert 1 not in ids


@pytest.mark.parametrize("broken", ["\ud83d", "a \udce9t\u00e9"])
def test_half_a_surrogate_pair_is_named(tokenizer, broken):
    for method in (lambda texts: tokenizer.encode(texts, 8), tokenizer.lengths):
        with pytest.raises(InputError, match=r"text 1 .*half of a surrogate pair"):
            method(["whole 🦊", broken])


def test_special_pieces_cannot_be_written(tokenizer):
    ids = tokenizer.encode(["<mask> <pad> <unk>"], 64)[0]
    used = ids[: np.flatnonzero(ids)[-1] + 1]
    assert used.min() > 2


def test_rows_are_padded_and_independent(tokenizer):
    texts = ["dog", "", "a very long caption about a dog and a cat"]
    rows = tokenizer.encode(texts, 16)
    assert rows.dtype == np.int32
    assert rows.shape == (3, 16)
    assert not rows[1].any()
    for row, alone in zip(rows, texts, strict=True):
        assert np.array_equal(row, tokenizer.encode([alone], 16)[0])
        assert not row[np.count_nonzero(row) :].any()


WORDS = st.lists(st.text("abcdefghijklmnoprstuwyzéж漢", min_size=1, max_size=12), max_size=12)


@settings(max_examples=50, deadline=None)
@given(words=WORDS)
def test_a_word_starts_at_each_word_start(words):
    tokenizer = Tokenizer.load("embedded")
    ids = tokenizer.encode([" ".join(words)], 512)[0]
    assert np.sum(tokenizer.word_start[ids]) == len(words)


@settings(max_examples=50, deadline=None)
@given(words=WORDS, max_tokens=st.integers(1, 20))
def test_long_captions_are_cut_between_words(words, max_tokens):
    tokenizer = Tokenizer.load("embedded")
    whole = tokenizer.encode([" ".join(words)], 512)[0]
    cut = tokenizer.encode([" ".join(words)], max_tokens)[0]
    length, total = np.count_nonzero(cut), np.count_nonzero(whole)
    assert np.array_equal(cut[:length], whole[:length])
    if length < total:
        # The longest run of whole words that fits; inside a word only if it is the first.
        starts = np.flatnonzero(tokenizer.word_start[whole])
        fitting = [s for s in starts if 0 < s <= max_tokens]
        assert length == (max(fitting) if fitting else max_tokens)


def test_pickles_by_path(tokenizer, tmp_path):
    path = tmp_path / "small.model"
    write_whole(path, train_tokenizer(CAPTIONS, 274))
    small = Tokenizer.load(str(path))
    for original in (tokenizer, small):
        pickled = pickle.dumps(original)
        assert len(pickled) < 500
        assert pickle.loads(pickled).content_hash == original.content_hash
    assert small.content_hash != tokenizer.content_hash


def test_same_captions_train_the_same_model():
    captions = [c for r in records.open_split("embedded:val").records() for c in r.captions]
    assert train_tokenizer(captions, 600) == train_tokenizer(captions, 600)


def test_case_is_kept_where_asked(tmp_path):
    path = tmp_path / "cased.model"
    write_whole(path, train_tokenizer(CAPTIONS, 274, normalization="nmt_nfkc"))
    cased = Tokenizer.load(str(path))
    assert cased.decode(cased.encode(["Red  \N{FULLWIDTH LATIN CAPITAL LETTER C}AT"], 16)) == [
        "Red CAT"
    ]


def test_rare_characters_are_left_to_their_bytes(tmp_path):
    captions = ["the cat sat", "a cat"] * 200 + ["漢"]
    for coverage, tokens in ((1.0, 2), (0.999, 4)):  # ▁ and the character, or its three bytes
        path = tmp_path / f"{coverage}.model"
        write_whole(path, train_tokenizer(captions, 268, character_coverage=coverage))
        tokenizer = Tokenizer.load(str(path))
        ids = tokenizer.encode(["漢"], 8)
        assert np.count_nonzero(ids) == tokens
        assert tokenizer.decode(ids) == ["漢"]


def test_no_captions_are_named():
    with pytest.raises(InputError, match="no captions"):
        train_tokenizer([], 300)


def test_program_trains_on_a_split(tmp_path, capsys):
    captions = tuple(CAPTIONS)
    data = write_split(tmp_path / "train", [record(n, captions=captions) for n in range(2)])
    output = tmp_path / "new.model"
    assert run_program(text, f"--data={data}", f"--output={output}", "--vocabulary_size=274") == 0
    assert Tokenizer.load(str(output)).vocabulary_size == 274
    said = capsys.readouterr().out
    assert "from the captions of 2 examples" in said
    assert "0 <pad>, 1 <unk>, 2 <mask>, then 256 bytes, then pieces; nmt_nfkc_cf" in said
    options = ["--character_coverage=0.99", "--normalization=nmt_nfkc", "--maximum_sentences=6"]
    arguments = [f"--data={data}", f"--output={output}", "--vocabulary_size=270", *options]
    assert run_program(text, *arguments) == 0
    assert "; nmt_nfkc\n" in capsys.readouterr().out
    expected = train_tokenizer(
        captions[:3] + captions[1:4], 270, character_coverage=0.99, normalization="nmt_nfkc"
    )
    assert output.read_bytes() == expected
    output.unlink()
    for arguments, reason in [
        ([f"--data={data}", f"--output={output}"], "give at most 274"),
        (["--data=embedded:none", f"--output={output}"], "no such split"),
        ([f"--data={data}", f"--output={tmp_path}/none/x"], "does not exist"),
        ([f"--data={data}"], "--output is missing"),
    ]:
        assert run_program(text, *arguments) == 2
        assert reason in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["train"]


def test_wrong_vocabulary_size_names_a_limit_that_works():
    with pytest.raises(InputError, match=r"give at most \d+") as error:
        train_tokenizer(CAPTIONS, 5000)
    train_tokenizer(CAPTIONS, int(str(error.value).split()[-1]))
    with pytest.raises(InputError, match=r"give more than \d+") as error:
        train_tokenizer(CAPTIONS, 100)
    train_tokenizer(CAPTIONS, int(str(error.value).split()[-1]) + 1)


def test_unusable_models_are_named(tmp_path):
    missing, garbage, foreign = (tmp_path / name for name in ("none", "garbage", "foreign"))
    garbage.write_bytes(b"not a model")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS), model_writer=model, vocab_size=18, minloglevel=2
    )
    foreign.write_bytes(model.getvalue())
    for path, reason in [(missing, "cannot be read"), (garbage, "no Sent"), (foreign, "ids are")]:
        with pytest.raises(InputError, match=reason) as error:
            Tokenizer.load(str(path))
        assert str(path) in str(error.value)


def test_equal_captions_have_equal_hashes():
    same = ["Café au  LAIT", "cafe\N{COMBINING ACUTE ACCENT} AU lait", " café au lait\n"]
    assert len(set(caption_hash(same).tolist())) == 1
    assert caption_hash(["cafe au lait"])[0] != caption_hash(same)[0]
    # What `printf dog | b2sum -l 32` prints, read as a little-endian number.
    assert caption_hash(["Dog"])[0] == int.from_bytes(bytes.fromhex("f73e71a0"), "little")


def test_hashes_tell_the_embedded_captions_apart():
    captions = list(records.open_split("embedded:train").captions())
    hashes = caption_hash(captions)
    assert len(set(hashes.tolist())) == len({normalised_caption(c) for c in captions})
    assert 0 not in hashes
