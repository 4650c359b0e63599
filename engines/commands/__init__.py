"""The commands of `onescan-engines`, a module a subject; `engines.cli` puts them together.

    looking      inspect, verify, schema        what a bundle is, and whether it does here what it should
    running      run, segment, phantom          one volume through it, or made for it
    people       phantom --count                a cohort of synthetic torsos
    measuring    bench, compare                 how fast, how much memory, and what a change changed
    judging      calibrate                      from scores of cases with a known outcome to thresholds and evidence
    packing      pack, unpack                   a bundle as one file

Each has `register(app)`. Modules here parse and print; what they do stands in `engines.*`, imported when a command
needs it, so that `--help` is quick.
"""
