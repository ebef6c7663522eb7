"""How sources become records: convert every part, decide about all of them, write the shards.

    options      what the user chooses
    staging      the folder beside the output that a killed ingest continues from
    conversion   an entry of a source -> a record, or why not
    part_files   a part of a source -> files: its records, a table of them, what was dropped
    tables       the tables of all parts as columns, and which rows of them are equal
    joining      which records are of one image
    decisions    what no part can know alone: duplicates, the hold-out, what goes to which shard
    writing      these files -> shards, manifests, the list of what was dropped
    processes    work on all cores of this machine
    report       what the user is told at the end

`oner_jax.ingest` does it on this machine, `oner_jax.ingest_beam` on many.
"""
