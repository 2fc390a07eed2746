"""A process that takes commands as lines of JSON."""

import json
import subprocess


class Worker:
    def __init__(self, name, command, environment, folder=None):
        self.name = name
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, cwd=folder, env=environment)

    def ask(self, command, **details):
        self.process.stdin.write(json.dumps({"command": command, **details}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return json.loads(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
