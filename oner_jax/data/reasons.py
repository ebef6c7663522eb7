"""Why something in a source of data became no record."""

import enum


class Reason(enum.StrEnum):
    """Why something in a source became no record. The keys of the manifest's `dropped`."""

    # The source's own damage.
    BROKEN_ENTRY = "broken_entry"  # a line, row or record that cannot be parsed
    TRUNCATED_ARCHIVE = "truncated_archive"  # what follows in it cannot be read
    EMPTY_ARCHIVE = "empty_archive"
    NOT_DOWNLOADED = "not_downloaded"  # the tool that made the source says so
    MISSING_IMAGE = "missing_image"
    MISSING_CAPTION = "missing_caption"
    EMPTY_IMAGE = "empty_image"  # a file of 0 bytes
    UNDECODABLE_IMAGE = "undecodable_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    INVALID_TEXT = "invalid_text"  # no UTF-8
    DUPLICATE_PAIR = "duplicate_pair"  # an image that came before, with no caption that did not
    BAD_SPLIT = "bad_split"  # cannot name a directory
    # What the user's filters exclude.
    DUPLICATE_IMAGE = "duplicate_image"
    IMAGE_TOO_SMALL = "image_too_small"
    ASPECT_TOO_WIDE = "aspect_too_wide"
    CAPTION_TOO_SHORT = "caption_too_short"
    CAPTION_TOO_LONG = "caption_too_long"
