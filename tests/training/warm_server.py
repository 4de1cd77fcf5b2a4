"""Fork processes that have imported train.py and torch already: a fresh interpreter takes seconds for that.

Each line of input is a request in JSON, answered by a line of JSON: "code" starts a process and gives its id, "poll"
gives the exit status of a process, null while it runs.
"""

import json
import os
import sys
import traceback


def serve():
    import train
    import training.run  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                run(request, train)
        print(json.dumps(answer), flush=True)


def run(request, train):
    """Become a script: with its arguments, environment and output files, and a process group of its own."""
    status = 1
    try:
        os.setsid()
        for number, name in enumerate((os.devnull, request["out"], request["err"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        os.environ.update(request["env"])
        sys.argv = ["train.py", *request["argv"]]
        exec(request["code"], {"train": train, "sys": sys})
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
