import pytest

from oner_jax.data import records
from oner_jax.data.sources.fields import FieldNames, example_of, resolve
from oner_jax.data.sources.raw import RawExample
from oner_jax.errors import InputError

OURS = ("caption", "captions")

GUESSES = {
    "ours": (("id", "image", "caption"), FieldNames("image", OURS, "id")),
    "open_clip": (("filepath", "title"), FieldNames("filepath", ("title",), "id")),
    "Hugging Face folder": (("file_name", "text"), FieldNames("file_name", ("text",), "id")),
    "img2dataset": (
        ("url", "caption", "key", "status", "error_message", "width", "height", "txt", "jpg"),
        FieldNames("jpg", (*OURS, "txt"), "key"),
    ),
    "img2dataset without captions": (
        ("key", "status", "error_message", "txt", "webp"),
        FieldNames("webp", (*OURS, "txt"), "key"),
    ),
    "capitals": (("IMAGE_PATH", "TEXT"), FieldNames("IMAGE_PATH", ("TEXT",), "id")),
    "ours beside others": (
        ("image", "path", "captions", "title", "key"),
        FieldNames("image", OURS, "key"),
    ),
    "texts alone": (("caption", "label"), FieldNames("image", OURS, "id")),
    "images alone": (("image", "split", "width"), FieldNames("image", OURS, "id")),
    "nothing known": ((), FieldNames("image", OURS, "id")),
}


@pytest.mark.parametrize("kind", GUESSES)
def test_usual_names_are_guessed(kind):
    columns, wanted = GUESSES[kind]
    assert resolve(FieldNames(), columns, "source") == wanted


def test_what_was_asked_for_is_used():
    names = FieldNames("photo", ("alt", "title"), "none")
    wanted = FieldNames("photo", ("alt", "title"), "")
    assert resolve(names, ("title", "photo", "alt", "image", "id"), "source") == wanted
    none = FieldNames("none", ("none",), "none")
    assert resolve(none, ("title", "photo", "license"), "source") == FieldNames("", (), "")


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        (("photo", "caption"), FieldNames(), "which field is the image? Its fields are photo, cap"),
        (
            ("image", "alt"),
            FieldNames(),
            "which field is the caption? Its fields are image, alt; giv",
        ),
        (("path", "filepath", "caption"), FieldNames(), "path and filepath may each be the image"),
        (("image", "text", "title"), FieldNames(), "choose one with --caption_field=NAME"),
        (
            ("image", "caption"),
            FieldNames(id="nr"),
            "has no field 'nr'; its fields are image, capt",
        ),
        (("image", "caption", "image"), FieldNames(), "field 'image' occurs twice"),
    ],
)
def test_what_cannot_be_guessed_is_asked(columns, names, message):
    with pytest.raises(InputError) as error:
        resolve(names, columns, "pairs.csv")
    assert str(error.value).startswith("pairs.csv: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_metadata_fit_into_a_record():
    fields = {
        "photo": b"bytes",
        "text": "a caption",
        **dict.fromkeys(records.RECORD_FEATURES, "x"),
        "source_id": "taken",
        "number": 0.5,
        "list": ["ä", 1],
        "nothing": None,
    }
    names = FieldNames("photo", ("text",), "")
    found = example_of(fields, names, location="here", default_id="7", directory="")
    assert isinstance(found, RawExample)
    assert found.read_image is not None
    assert found.read_image() == b"bytes"
    assert found.metadata == {
        "source_id_": "x",
        "source_image": "x",
        "source_captions": "x",
        "source_id": "taken",
        "number": "0.5",
        "list": '["ä", 1]',
    }
    record = records.Record(
        id=found.id, image=b"", height=0, width=0, captions=found.captions, metadata=found.metadata
    )
    assert records.Record.parse(record.serialise()).metadata == dict(sorted(found.metadata.items()))
