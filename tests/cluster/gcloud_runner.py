"""Runs many command lines through the installed gcloud in one process: its start is most of a command's time.

Called with gcloud's own Python: `python gcloud_runner.py SDK COMMANDS ENDED`, where COMMANDS is a file with a JSON list
of argument lists. Writes to the file ENDED a JSON list of [exit code, error output, requests sent].
"""

import contextlib
import io
import json
import os
import sys
import urllib.request


def main() -> None:
    sdk, file, ended_file = sys.argv[1:]
    sys.path[:0] = [os.path.join(sdk, "lib"), os.path.join(sdk, "lib", "third_party")]
    import gcloud

    with contextlib.suppress(AttributeError):
        gcloud._fix_google_module()
    from googlecloudsdk import gcloud_main
    from googlecloudsdk.core import log

    cli = gcloud_main.CreateCLI([])
    with open(file, encoding="utf-8") as stream:
        commands = json.load(stream)
    ended = []
    for arguments in commands:
        sys.argv = ["gcloud", *arguments]
        out, err, code, before = io.StringIO(), io.StringIO(), 0, _requests()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            log.Reset(out, err)
            try:
                gcloud_main.main(gcloud_cli=cli)
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        ended.append([code, err.getvalue(), _requests()[len(before) :]])
    with open(ended_file, "w", encoding="utf-8") as stream:
        json.dump(ended, stream)


def _requests() -> list[str]:
    with urllib.request.urlopen(os.environ["RECORDED_REQUESTS"], timeout=60) as answer:
        return list(json.load(answer))


main()
