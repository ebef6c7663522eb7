"""Karpathy's splits, COCO's own captions and Visual Genome's regions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data import sources
from oner_jax.data.sources import FieldNames, Options, Reason, json_arrays
from oner_jax.errors import InputError
from tests.data.sources.entries import examples, fates, images, write_images, write_json
from tests.data.sources.written import read

# The keys and the folders are those of the published files.
KARPATHY_SPLITS = ("train", "restval", "val", "test", "train")


def karpathy_coco() -> dict[str, Any]:
    return {
        "images": [
            {
                "filepath": "train2014" if split == "train" else "val2014",
                "sentids": [100 * n + k for k in range(5)],
                "filename": f"COCO_{n:012d}.jpg",
                "imgid": n,
                "split": split,
                "sentences": [
                    {
                        "tokens": ["thing", str(n)],
                        "raw": f"Thing {n}, said {k} times – naïvely.",
                        "imgid": n,
                        "sentid": 100 * n + k,
                    }
                    for k in range(5 + n % 2)
                ],
                "cocoid": 9000 + n,
            }
            for n, split in enumerate(KARPATHY_SPLITS)
        ],
        "dataset": "coco",
    }


def karpathy_flickr() -> dict[str, Any]:
    described = karpathy_coco()
    for n, image in enumerate(described["images"]):
        del image["filepath"], image["cocoid"]
        image["filename"] = f"10000{n}.jpg"
    return described | {"dataset": "flickr30k"}


def coco_captions() -> dict[str, Any]:
    return {
        "info": {"description": "COCO 2014 Dataset", "year": 2014},
        "images": [
            {
                "license": 5,
                "file_name": f"COCO_train2014_{n:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2014/COCO_train2014_{n:012d}.jpg",
                "height": 640,
                "width": 480,
                "id": n,
            }
            for n in range(4)
        ],
        "licenses": [{"url": "http://creativecommons.org/", "id": 1, "name": "A licence"}],
        "annotations": [
            {"image_id": n, "id": 10 * k + n, "caption": f'thing {n} "said" {k} times'}
            for k in range(5)
            for n in (2, 0, 1)
        ],
    }


def region_descriptions() -> list[dict[str, Any]]:
    return [
        {
            "id": n,
            "regions": [
                {
                    "region_id": 10 * n + k,
                    "image_id": n,
                    "phrase": f"thing {min(k, 2)} of {n}",
                    "x": 1,
                    "y": 2,
                    "width": 3,
                    "height": 4,
                }
                for k in range(4)
            ],
        }
        for n in range(1, 6)
    ]


def test_karpathy_coco(tmp_path):
    described = karpathy_coco()
    path = write_json(tmp_path / "annotations" / "dataset_coco.json", described)
    names = [f"{image['filepath']}/{image['filename']}" for image in described["images"]]
    content = write_images(tmp_path, *names)
    found = examples(path)
    assert [example.id for example in found] == [str(9000 + n) for n in range(5)]
    assert [example.split for example in found] == list(KARPATHY_SPLITS)
    assert [len(example.captions) for example in found] == [5, 6, 5, 6, 5]
    assert found[3].captions[5] == "Thing 3, said 5 times – naïvely."
    assert images(found) == [content[name] for name in names]
    assert found[3].location == f"{path}[3]"


@pytest.mark.parametrize("folder", ["flickr30k-images", "images", "."])
def test_karpathy_flickr(tmp_path, folder):
    path = write_json(tmp_path / "dataset_flickr30k.json", karpathy_flickr())
    content = write_images(tmp_path / folder, *(f"10000{n}.jpg" for n in range(5)))
    found = examples(path)
    assert [example.id for example in found] == [f"10000{n}" for n in range(5)]
    assert images(found) == list(content.values())


def test_coco(tmp_path):
    path = write_json(tmp_path / "annotations" / "captions_train2014.json", coco_captions())
    content = write_images(
        tmp_path / "train2014", *(f"COCO_train2014_{n:012d}.jpg" for n in range(4))
    )
    found = examples(path)
    assert [example.id for example in found] == list("0123")
    assert {example.split for example in found} == {"train"}
    for n in range(3):
        assert found[n].captions == tuple(f'thing {n} "said" {k} times' for k in range(5))
    assert found[3].captions == ()  # a picture without captions
    assert images(found) == list(content.values())


def test_both_of_cocos_files_by_a_pattern(tmp_path):
    for split in ("train", "val"):
        described = coco_captions()
        for image in described["images"]:
            image["file_name"] = f"{split}{image['id']}.jpg"
        write_json(tmp_path / f"captions_{split}2017.json", described)
        write_images(tmp_path / f"{split}2017", *(f"{split}{n}.jpg" for n in range(4)))
    found = examples(tmp_path / "captions_{train,val}2017.json")
    assert [example.split for example in found] == ["train"] * 4 + ["val"] * 4
    assert images(found)[5] == b"the picture val1.jpg"


def test_visual_genome(tmp_path):
    path = write_json(tmp_path / "region_descriptions.json", region_descriptions())
    first = write_images(tmp_path / "pictures" / "VG_100K", "1.jpg", "2.jpg")
    second = write_images(tmp_path / "pictures" / "VG_100K_2", "3.jpg", "4.jpg", "5.jpg")
    found = examples(path, options=Options(image_directory=str(tmp_path / "pictures")))
    assert [example.id for example in found] == list("12345")
    assert images(found) == [*first.values(), *second.values()]
    assert found[1].captions == tuple(f"thing {k} of 2" for k in range(3))


def test_what_is_wrong_with_an_entry_is_said_there(tmp_path):
    described = karpathy_coco()
    write_images(tmp_path, *(f"{i['filepath']}/{i['filename']}" for i in described["images"][2:]))
    del described["images"][2]["sentences"]
    described["images"][3]["sentences"][0]["raw"] = 7
    (tmp_path / "train2014" / described["images"][4]["filename"]).write_bytes(b"")
    described["images"].append("no picture")
    described["images"].append(described["images"][3] | {"sentences": [{"raw": "\ud800 alone"}]})
    path = write_json(tmp_path / "dataset_coco.json", described)
    found = read(path)
    assert fates(found) == [
        Reason.MISSING_IMAGE,
        Reason.MISSING_IMAGE,
        Reason.BROKEN_ENTRY,
        Reason.BROKEN_ENTRY,
        Reason.EMPTY_IMAGE,
        Reason.BROKEN_ENTRY,
        Reason.INVALID_TEXT,
    ]
    assert [entry.location for entry in found] == [f"{path}[{n}]" for n in range(7)]
    raw = path.read_bytes().replace(b"Thing 3, said 1", b"Thing \xff, said")
    path.write_bytes(raw)
    assert fates(read(path))[3:4] == [Reason.BROKEN_ENTRY]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("dataset_coco.json", karpathy_coco(), r"give --image_directory=DIR"),
        ("captions_val2014.json", coco_captions(), r"val2014/COCO_train2014_0+\.jpg and the like"),
        ("captions_val2014.json", coco_captions() | {"annotations": [{"id": 1}]}, "no captions"),
        ("captions_val2014.json", coco_captions() | {"images": []}, "describes no pictures"),
        ("captions_val2014.json", coco_captions() | {"annotations": {}}, "annotations is no array"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, reason):
    path = write_json(tmp_path / name, content)
    source_format = "karpathy" if "dataset" in name else "coco"
    with pytest.raises(InputError, match=reason) as error:
        read(path, source_format)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_fields_have_fixed_names(tmp_path):
    path = write_json(tmp_path / "dataset_coco.json", karpathy_coco())
    with pytest.raises(InputError, match="leave out --caption_field"):
        read(path, names=FieldNames(captions=("raw",)))
    with pytest.raises(InputError, match=r"--class_names: is for tfds, class_folders; .* karpathy"):
        read(path, options=Options(class_names="x"))


def test_every_truncation_is_said_at_once(tmp_path):
    for source_format, content in [
        ("karpathy", karpathy_coco()),
        ("coco", coco_captions()),
        ("visual_genome", region_descriptions()),
    ]:
        whole = json.dumps(content).encode()
        last = whole.rindex(b"]")
        path = tmp_path / f"{source_format}.json"
        for length in range(0, last, 37):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError):
                sources.open_source(str(path), source_format, examples_per_part=2)


def test_a_file_that_changed_since_is_a_broken_entry(tmp_path):
    described = region_descriptions()
    path = write_json(tmp_path / "region_descriptions.json", described)
    write_images(tmp_path, *(f"{n}.jpg" for n in range(1, 6)))
    parts = sources.open_source(str(path), examples_per_part=2)
    path.write_bytes(path.read_bytes()[:300])
    found = [entry for part in parts for entry in part.read()]
    assert fates(found) == [Reason.BROKEN_ENTRY] * 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    before=st.dictionaries(st.text(), JSON, max_size=3),
    array=st.lists(JSON, max_size=8),
    after=st.dictionaries(st.text(), JSON, max_size=3),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    chunk_bytes=st.integers(1, 40),
)
def test_elements_are_those_of_the_json_module(
    tmp_path_factory, before, array, after, indent, ascii_only, chunk_bytes
):
    for taken in (before, after):
        taken.pop("key", None)
    path = tmp_path_factory.mktemp("json") / "file.json"
    for key, content in (("key", before | {"key": array} | after), ("", array)):
        text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
        path.write_bytes(text.encode(errors="surrogatepass"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_arrays, "_CHUNK_BYTES", chunk_bytes)
            found = list(json_arrays.array_elements(str(path), key))
        read_back = [json.loads(value.decode(errors="surrogatepass")) for _, value in found]
        assert read_back == json.loads(json.dumps(array))
        raw = path.read_bytes()
        assert all(raw[offset : offset + len(value)] == value for offset, value in found)


def test_a_missing_array_is_named(tmp_path):
    path = write_json(tmp_path / "other.json", {"a": [1, 2], "b": "x"})
    with pytest.raises(InputError, match="has no 'images'"):
        list(json_arrays.array_elements(str(path), "images"))
    for content in (b"", b"[1", b'{"a" 1}', b'{"a": }', b"[1 2]", b'{"images": [1], "b"'):
        path.write_bytes(content)
        with pytest.raises(InputError):
            list(json_arrays.array_elements(str(path), "b"))
