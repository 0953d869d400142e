#!/usr/bin/env -S python3 -I -S
"""The entrypoint of an overlay image. Standard library only; it ends in exec, so that vLLM is PID 1 and gets the signals.

Usage:
  IMAGE                              the default profile; without one, the list of profiles and exit 2
  IMAGE PROFILE [FLAGS]              a named profile; FLAGS win over the profile's own
  IMAGE profiles | show PROFILE      what is in the image
  IMAGE verify [--json]              every patched file against the record, and what cannot be seen from inside
  IMAGE health [--port N]            inside a running container: does the server respond? (for health checks)
  IMAGE ANYTHING ELSE                the base image's own entrypoint, unchanged

  --print, before or behind a profile's name, prints the command instead of running it.
  --record=sha256:DIGEST comes first and is part of the image's ENTRYPOINT: the record that the image's config vouches for.
  Without it, only the layer vouches for its record, and nothing that the record names is started.

Environment:
  BUILDER_PROFILE           the profile when none is named; flags alone are then the caller's for it
  BUILDER_MODEL             the model that a profile serves (default /model)
  BUILDER_EXTRA_ARGS        further flags for a profile, split as a shell does
  BUILDER_CHECKPOINT_CHECK  quick (default: names, sizes, JSON files, tensors), full (every byte, and the digest) or off
  A profile's own variables are set unless the caller has set them: the caller's environment wins, as flags do.
"""

import json
import os
import sys

OK, UNHEALTHY, INPUT, MISMATCH = 0, 1, 2, 4
RECORD_OPTION = "--record="
OWN_FILES = ("record.json", "serve")
FILES = "files"
ABOUT = ("title", "author", "state", "why", "drop_when")
HERE = os.path.dirname(os.path.realpath(__file__))
# /opt/builder/serve -> /; in a test the same two folders below another root.
ROOT = os.path.dirname(os.path.dirname(HERE))


class Refused(Exception):
    """An error that the user can mend: what, details (label, text), next, exit code."""

    def __init__(self, code, message, details=(), hint=""):
        super().__init__(message)
        self.code, self.message, self.details, self.hint = code, message, details, hint


def open_file(path):
    """A file for reading bytes; a pipe of that name would block."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is not a file")
    return open(path, "rb")


def read_json(path):
    with open_file(path) as stream:
        return json.loads(stream.read().decode())


def split_binding(arguments):
    """The record's digest that the image's ENTRYPOINT passes (None without one), and the other arguments."""
    if not arguments or not arguments[0].startswith(RECORD_OPTION):
        return None, list(arguments)
    kind, _, digest = arguments[0][len(RECORD_OPTION) :].partition(":")
    if kind != "sha256" or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        found = [("found", arguments[0])]
        raise Refused(INPUT, "--record is not a digest", found, "leave it to the image's own ENTRYPOINT")
    return digest, list(arguments[1:])


def load_record(wanted):
    """The record. With `wanted`, only the one with that SHA-256."""
    where = [("where", HERE)]
    try:
        with open_file(os.path.join(HERE, "record.json")) as stream:
            data = stream.read()
        record = json.loads(data.decode())
    except FileNotFoundError:
        raise Refused(MISMATCH, "this image has no record", where, "the layer is damaged: rebuild or pull again")
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(MISMATCH, "the record cannot be read: %s" % error, where, "rebuild the image, or pull it again")
    if wanted is not None:
        import hashlib

        found = hashlib.sha256(data).hexdigest()
        if found != wanted:
            details = where + [("wanted", "sha256:" + wanted), ("found", "sha256:" + found)]
            message = "the record is not the one that the image's config names"
            raise Refused(MISMATCH, message, details, "pull the image again, or rebuild it")
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != 1:
        raise Refused(MISMATCH, "the record has an unknown schema", [("found", repr(schema))], "rebuild the image")
    return record


def digest_of(path):
    import hashlib

    digest = hashlib.sha256()
    with open_file(path) as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def wrong_files(record):
    """(path, what is wrong) of every patched file that is not as the record has it."""
    folder = os.path.join(ROOT, record["package"]["root"])
    wrong = []
    for entry in record["files"]:
        path = os.path.join(folder, entry["path"])
        if entry["after"] is None:
            if os.path.lexists(path):
                wrong.append((entry["path"], "should have been deleted"))
            continue
        if os.path.realpath(path) != path:
            wrong.append((entry["path"], "is reached through a link to %s" % os.path.realpath(path)))
            continue
        try:
            found = digest_of(path)
        except OSError as error:
            wrong.append((entry["path"], error.strerror or str(error)))
            continue
        if found != entry["after"]:
            what = "is the base's own: the overlay is not in it" if found == entry["before"] else "has other content"
            wrong.append((entry["path"], "%s (sha256 %s, recorded %s)" % (what, found, entry["after"])))
    wrong += [(name, "is stale bytecode") for name in record["removed"] if os.path.lexists(os.path.join(folder, name))]
    for each in record.get("installed", []):
        wrong += wrong_distribution(folder, each)
    for each in record.get("added", []):
        path = os.path.join(ROOT, each["path"])
        try:
            if os.path.realpath(path) != path:
                wrong.append(("/" + each["path"], "is reached through a link to %s" % os.path.realpath(path)))
            elif digest_of(path) != each["sha256"]:
                wrong.append(("/" + each["path"], "has other content than the recorded file"))
        except OSError as error:
            wrong.append(("/" + each["path"], error.strerror or str(error)))
    return wrong


def wrong_distribution(folder, installed):
    """What is wrong of a distribution that the layer brings: the record has its RECORD's digest, RECORD has its files'."""
    import base64
    import csv

    wrong = [
        ("/" + path, "should have been deleted")
        for path in installed["removed"]
        if os.path.lexists(os.path.join(ROOT, path))
    ]
    if not installed["dist_info"]:
        return wrong
    listed = os.path.join(folder, installed["dist_info"], "RECORD")
    try:
        found = digest_of(listed)
        if found != installed["record"]:
            what = "has other content (sha256 %s, recorded %s)" % (found, installed["record"])
            return wrong + [("%s/RECORD" % installed["dist_info"], what)]
        with open(listed, newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if len(row) == 3 and row[1]]
    except (OSError, ValueError, csv.Error) as error:
        return wrong + [("%s/RECORD" % installed["dist_info"], str(getattr(error, "strerror", None) or error))]
    places = {}
    for name, digest, _ in rows:
        path = os.path.normpath(os.path.join(folder, name))
        above = os.path.dirname(path)
        if above not in places:
            places[above] = os.path.realpath(above)
        if places[above] != above or os.path.islink(path):
            wrong.append((name, "is reached through a link"))
            continue
        try:
            found = base64.urlsafe_b64encode(bytes.fromhex(digest_of(path))).decode().rstrip("=")
        except OSError as error:
            wrong.append((name, error.strerror or str(error)))
            continue
        if digest != "sha256=" + found:
            wrong.append((name, "has other content than the wheel's"))
    return wrong


def wrong_entries(record):
    """(path, what is wrong) in the layer's own folder: it holds the entrypoint, the record and recorded files only."""
    import stat

    wrong = []
    named = os.path.abspath(__file__)
    if named.endswith("/opt/builder/serve") and named != os.path.realpath(__file__):
        wrong.append(("/opt/builder", "is a link: the entrypoint is at %s" % os.path.realpath(__file__)))
    own = "opt/builder/"
    recorded = [each["path"][len(own) :] for each in record.get("added", []) if each["path"].startswith(own)]
    folders = {name.rpartition("/")[0] for name in recorded if "/" in name}
    for each in list(folders):
        folders |= {each[:at] for at, letter in enumerate(each) if letter == "/"}
    for name in own_entries(FILES in folders):
        mode = os.lstat(os.path.join(HERE, name)).st_mode
        if name in folders and stat.S_ISDIR(mode):
            continue
        if name not in OWN_FILES and name not in recorded:
            wrong.append(("/opt/builder/" + name, "is an entry that the record does not know"))
        elif not stat.S_ISREG(mode):
            wrong.append(("/opt/builder/" + name, "is not a regular file"))
        elif mode & 0o7000:
            wrong.append(("/opt/builder/" + name, "has mode %o: set-user-id, set-group-id or sticky" % (mode & 0o7777)))
    if digest_of(os.path.realpath(__file__)) != record["entrypoint"]:
        wrong.append(("/opt/builder/serve", "is another entrypoint than the recorded one"))
    return wrong


def own_entries(nested):
    """The names in the layer's own folder, with those below `files` when the record knows that folder."""
    names = sorted(os.listdir(HERE))
    if nested and os.path.isdir(os.path.join(HERE, FILES)) and not os.path.islink(os.path.join(HERE, FILES)):
        for above, folders, files in os.walk(os.path.join(HERE, FILES)):
            names += sorted(os.path.relpath(os.path.join(above, each), HERE) for each in folders + files)
    return names


def visible(record, bound):
    """What this check saw, and what it cannot see from inside a container."""
    seen = ["%d patched files, and bytecode that must be gone" % len(record["files"]), "the entries of /opt/builder"]
    for each in record.get("installed", []):
        what = "%s %s" % (each["name"], each["version"]) if each["dist_info"] else each["name"]
        seen.append("%s, every file by its RECORD" % what if each["dist_info"] else "%s, which is removed" % what)
    if record.get("added"):
        seen.append("%d added files" % len(record["added"]))
    unseen = [
        "the base's own files, Python among them: whoever can change those can change this check",
        "the image's config (environment, user, labels), its other layers, and who made it",
    ]
    if bound:
        seen.append("the record, against the digest in the image's ENTRYPOINT")
    else:
        unseen.insert(0, "whether this is the image's record: started without the --record of the image's ENTRYPOINT")
    return seen, unseen


def verify(record, arguments, bound):
    wrong = wrong_files(record) + wrong_entries(record)
    seen, unseen = visible(record, bound)
    if "--json" in arguments:
        problems = [{"path": path, "problem": what} for path, what in wrong]
        document = {"name": record["name"], "ok": not wrong, "files": len(record["files"]), "problems": problems}
        document.update({"record_bound": bound, "checked": seen, "not_checked": unseen})
        keys = ("id", "digest") + ABOUT
        document["overlays"] = [{key: each[key] for key in keys if key in each} for each in record["overlays"]]
        print(json.dumps(document, indent=2))
    elif not wrong:
        print("%s: %d files are as recorded" % (record["name"], len(record["files"])))
        for each in record["overlays"]:
            facts = ["%s: %s" % (key.replace("_", " "), " ".join(each[key].split())) for key in ABOUT if each.get(key)]
            print("  overlay %s" % "  ".join([each["id"]] + ([" - ".join(facts)] if facts else [])))
        for label, texts in (("checked", seen), ("not checked", unseen)):
            for text in texts:
                print("  %-11s  %s" % (label, text))
        print("  %-11s  `builder verify` derives the whole image again, from outside" % "next")
    if wrong and "--json" not in arguments:
        raise Refused(MISMATCH, "the image is not what its record says", wrong, "pull the image again, or rebuild it")
    return MISMATCH if wrong else OK


def show_profiles(record):
    width = max([len(name) for name in record["profiles"]] or [0])
    for name, profile in record["profiles"].items():
        mark = "*" if name == record["default_profile"] else " "
        print("%s %-*s  %s" % (mark, width, name, profile.get("description", "")))
    if record["default_profile"]:
        print("* runs when no profile is named")
    return OK


def show_profile(record, arguments):
    if len(arguments) != 1 or arguments[0] not in record["profiles"]:
        known = ", ".join(record["profiles"]) or "none"
        raise Refused(INPUT, "show takes the name of a profile", [("profiles", known)])
    print(json.dumps(record["profiles"][arguments[0]], indent=2, ensure_ascii=False))
    return OK


def flag_of(argument):
    """The plain name of a flag: `--no_enable_x=1` and `--enable-x` are both `enable-x`; None for a value."""
    if not argument.startswith("--") or len(argument) == 2:
        return None
    name = argument[2:].split("=", 1)[0].replace("_", "-")
    return name[3:] if name.startswith("no-") else name


def merge(profile, caller):
    """The profile's flags without those that the caller gives in any form, then the caller's."""
    given = {flag_of(argument) for argument in caller} - {None}
    kept, keep = [], True
    for argument in profile:
        name = flag_of(argument)
        if name is not None:
            keep = name not in given
        if keep:
            kept.append(argument)
    return kept + list(caller)


def serve_command(record, name, caller):
    import shlex

    extra = os.environ.get("BUILDER_EXTRA_ARGS", "")
    try:
        flags = merge(record["profiles"][name]["argv"], shlex.split(extra) + list(caller))
    except ValueError as error:
        raise Refused(INPUT, "BUILDER_EXTRA_ARGS cannot be split: %s" % error, [("found", extra)], "close the quotes")
    start = record["base"]["entrypoint"]
    if not start:
        hint = "this image holds package files only"
        raise Refused(INPUT, "the base image has no entrypoint to serve with", [], hint)
    return list(start) + [os.environ.get("BUILDER_MODEL") or record["model"]] + flags


def check_checkpoint(record, model, how):
    """Refuse a checkpoint that this vLLM would load into garbage. A name that is not a folder is one on the Hub, and is not checked."""
    rules = record["checkpoint"].get("requires") or {}
    if how == "off" or not (os.path.isdir(model) or os.path.isabs(model)):
        return
    if not os.path.isdir(model):
        hint = "mount it: docker run -v /path/to/checkpoint:%s:ro ..." % model
        raise Refused(INPUT, "there is no model at %s" % model, [], hint)
    try:
        config = read_json(os.path.join(model, "config.json"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(INPUT, "cannot read %s/config.json: %s" % (model, error), [], "mount the checkpoint's own folder")
    try:
        problems = opt_in_problems(config, rules) + tensor_problems(model, rules) + file_problems(record, model, how)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        # JSON of another shape than a checkpoint's: a number for a list, a list for the whole config.
        problems = [("config.json or index", "is not what a checkpoint has: %r" % error)]
    if problems:
        message = "the checkpoint at %s is not one that this image can serve" % model
        hint = "bring the locked one (`builder checkpoint quantize` makes it); BUILDER_CHECKPOINT_CHECK=off if you know better"
        raise Refused(MISMATCH, message, problems, hint)


def opt_in_problems(config, rules):
    quantization = config.get("quantization_config")
    if quantization is None:
        quantization = (config.get("text_config") or {}).get("quantization_config") or {}
    problems = [
        ("config.json", "quantization_config.%s is not true: the overlay's path stays off" % name)
        for name in rules.get("opt_ins", [])
        if quantization.get(name) is not True
    ]
    modules = [bare(tensor.rsplit(".", 1)[0]) for tensor in rules.get("tensors", {})]
    # vLLM 0.20.0, Fp8Config.from_config: ignored_layers, and modules_to_not_convert where that is empty or missing.
    # `builder checkpoint quantize` takes a table out of both, so a table in either is somebody else's edit.
    for key in ("modules_to_not_convert", "ignored_layers"):
        for name in quantization.get(key) or []:
            if bare(name) in modules:
                problems.append(("config.json", "%s lists %s: its scale would be ignored" % (key, name)))
    return problems


def bare(module):
    """A module's name without the wrappers that transformers and vLLM put in different orders."""
    return [part for part in str(module).split(".") if part not in ("model", "language_model")]


def tensor_problems(model, rules):
    wanted = rules.get("tensors") or {}
    if not wanted:
        return []
    try:
        shards = read_json(os.path.join(model, "model.safetensors.index.json"))["weight_map"]
    except FileNotFoundError:
        shards = dict.fromkeys(wanted, "model.safetensors")
    except (OSError, ValueError, KeyError) as error:
        return [("model.safetensors.index.json", "cannot be read: %r" % error)]
    problems, headers = [], {}
    for name, rule in wanted.items():
        shard = shards.get(name)
        if shard is None:
            problems.append((name, "is not in the checkpoint"))
            continue
        try:
            if shard not in headers:
                headers[shard] = read_header(os.path.join(model, shard))
            found = headers[shard].get(name)
        except (OSError, ValueError) as error:
            problems.append((shard, "cannot be read: %s" % error))
            continue
        if found is None:
            problems.append((name, "is not in %s, though the index says so" % shard))
        elif found.get("dtype") != rule["dtype"] or list(found.get("shape", [])) != list(rule["shape"]):
            what = (found.get("dtype"), found.get("shape"), rule["dtype"], rule["shape"])
            problems.append((name, "is %s %s, not %s %s" % what))
    return problems


def read_header(path):
    """The header of a safetensors file: an 8-byte little-endian length, then JSON."""
    with open_file(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= 100_000_000:
            raise ValueError("no safetensors header")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("no safetensors header")
    return header


def served_files(model):
    """Path -> size, or what is wrong with it, of all that counts: found as builder/checkpoint/digest.py finds it."""
    found: dict[str, object] = {}
    waiting: list[tuple[str, tuple[object, ...]]] = [("", ())]
    while waiting:
        path, above = waiting.pop()
        whole, name = os.path.join(model, path), os.path.basename(path)
        try:
            if os.path.isdir(whole):
                here = os.stat(whole)[1:3]  # inode and device
                # A link to a folder that it lies in adds nothing.
                names = [] if here in above else os.listdir(whole)
                names = [each for each in names if not each.startswith(".") and each != "__pycache__"]
                waiting += [(os.path.join(path, each), above + (here,)) for each in names]
            elif not name.endswith(".md") and not name.startswith("LICENSE"):
                with open_file(whole) as stream:
                    found[path] = os.fstat(stream.fileno()).st_size
        except OSError as error:
            found[path or "."] = "cannot be read: %s" % (error.strerror or error)
    return found


def combined(digests):
    """The checkpoint digest, as docs/checkpoint.md has it, of SHA-256 by path."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(digests, key=os.fsencode):
        # As sha256sum does: a name with a backslash or a line break is escaped, and its line says so.
        name = path.replace("\\", "\\\\").replace("\n", "\\n")
        digest.update(os.fsencode("%s%s  %s\n" % ("" if name == path else "\\", digests[path], name)))
    return digest.hexdigest()


def file_problems(record, model, how):
    """What is not as locked: names and sizes; the content of JSON files; with `full` all content, and the digest."""
    locked = {entry["path"]: entry for entry in record["checkpoint"].get("files", [])}
    wanted, full = record["checkpoint"].get("digest"), how == "full"
    if not wanted or not (locked or full):
        return []
    problems, reading, digests, found = [], [], {}, served_files(model)
    for path in sorted(set(found) | set(locked)):
        size, entry = found.get(path, "is missing, or is no file"), locked.get(path)
        if isinstance(size, str):
            # Where this user may not look (lost+found), vLLM may not either: only the digest needs it.
            if full or entry or not os.path.isdir(os.path.join(model, path)):
                problems.append((path, size))
        elif locked and not entry:
            problems.append((path, "is not in the locked checkpoint"))
        elif entry and size != entry["size"]:
            problems.append((path, "has %d bytes, locked were %d" % (size, entry["size"])))
        elif full or path.endswith(".json"):
            reading.append(path)
    if full and problems:
        return problems  # Reading it all takes minutes, and would change nothing.
    for path in reading:
        try:
            digests[path] = digest_of(os.path.join(model, path))
        except OSError as error:
            problems.append((path, "cannot be read: %s" % (error.strerror or error)))
        else:
            if locked and digests[path] != locked[path]["sha256"]:
                problems.append((path, "has other content than the locked checkpoint"))
    if full and not problems and combined(digests) != wanted:
        problems.append(("digest", "is %s, locked was %s" % (combined(digests), wanted)))
    return problems


def health(arguments):
    """Whether the server in this container responds with 200 at /health. No curl and no proxy is needed."""
    import http.client

    port = arguments[1] if len(arguments) == 2 else "8000"
    if arguments[:1] not in ([], ["--port"]) or len(arguments) not in (0, 2) or not port.isdigit():
        raise Refused(INPUT, "health takes --port N and nothing else", [("found", " ".join(arguments))])
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print("no response: %s" % error)
        return UNHEALTHY
    finally:
        connection.close()
    print("status %d" % status)
    return OK if status == 200 else UNHEALTHY


def apply_environment(record, name):
    """Set the profile's variables where the caller has not, and return what was set.

    A value that the base image's own config has is not the caller's: the profile's replaces it.
    """
    given = {}
    stock = record["base"].get("env") or {}
    for key, value in (record["profiles"][name].get("env") or {}).items():
        if key not in os.environ or os.environ[key] == stock.get(key):
            os.environ[key] = given[key] = value
    return given


def run(command, printing, as_json, bound):
    if not printing and not bound:
        message = "started without the record's digest, so that only the layer vouches for what would run"
        hint = "start the image with its own ENTRYPOINT (docker inspect shows its --record), or name another program"
        raise Refused(MISMATCH, message, [("wanted", "--record=sha256:... as the first argument")], hint)
    if printing:
        import shlex

        print(json.dumps(command) if as_json else " ".join(shlex.quote(part) for part in command))
        return OK
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        message = "cannot start %s: %s" % (command[0], error.strerror)
        raise Refused(INPUT, message, [], "the base image should have it on its PATH")


def serve(record, name, arguments, bound):
    printing = "--print" in arguments
    as_json = printing and "--json" in arguments
    caller = [each for each in arguments if each != "--print" and not (as_json and each == "--json")]
    command = serve_command(record, name, caller)
    given = apply_environment(record, name)
    if printing:
        shown = ["env"] + ["%s=%s" % pair for pair in given.items()] if given else []
        return run(shown + command, True, as_json, bound)
    how = os.environ.get("BUILDER_CHECKPOINT_CHECK", "quick")
    if how not in ("quick", "full", "off"):
        raise Refused(INPUT, "BUILDER_CHECKPOINT_CHECK is %r" % how, [], "use quick, full or off")
    wrong = wrong_files(record) + wrong_entries(record)
    if wrong:
        raise Refused(MISMATCH, "the image is not what its record says", wrong, "pull the image again, or rebuild it")
    check_checkpoint(record, command[len(record["base"]["entrypoint"])], how)
    return run(command, False, False, bound)


def near(word, names):
    import difflib

    return difflib.get_close_matches(word, names, n=1, cutoff=0.75)


def no_profile(name, profiles, hint):
    return Refused(INPUT, "there is no profile %r" % name, [("profiles", ", ".join(profiles) or "none")], hint)


def no_default(record):
    """Without a default, nothing is served: the base's own default would be a model that nobody pinned."""
    show_profiles(record)
    sys.stdout.flush()
    if record["profiles"]:
        hint = "name a profile: docker run ... IMAGE %s" % next(iter(record["profiles"]))
        raise Refused(INPUT, "this image has no default profile", [("profiles", ", ".join(record["profiles"]))], hint)
    raise Refused(INPUT, "this image has no profiles", [], "name a model: docker run ... IMAGE MODEL [FLAGS]")


def main(given):
    wanted, arguments = split_binding(given)
    record, bound = load_record(wanted), wanted is not None
    profiles = record["profiles"]
    leading = [each for each in arguments[:2] if each in ("--print", "--json")]
    rest = arguments[len(leading) :] if arguments[: len(leading)] == leading else arguments
    chosen = os.environ.get("BUILDER_PROFILE")
    # Flags alone would start the base's default model: with a profile chosen they are meant for it.
    if not rest or (chosen and rest[0].startswith("-")):
        name = chosen or record["default_profile"]
        if name is None:
            if not profiles and record["base"]["cmd"]:
                start = record["base"]["entrypoint"] + record["base"]["cmd"]
                return run(start, bool(leading), "--json" in leading, bound)
            return no_default(record)
        if name not in profiles:
            raise no_profile(name, profiles, "see BUILDER_PROFILE")
        return serve(record, name, arguments, bound)
    if rest[0] in profiles:
        return serve(record, rest[0], leading + rest[1:], bound)
    first = arguments[0]
    if first == "profiles" and len(arguments) == 1:
        return show_profiles(record)
    if first == "show":
        return show_profile(record, arguments[1:])
    if first == "verify" and set(arguments[1:]) <= {"--json"}:
        return verify(record, arguments[1:], bound)
    if first == "health":
        return health(arguments[1:])
    similar = near(first, profiles) if "/" not in first and not first.startswith("-") else []
    if similar and not os.path.exists(first):
        raise no_profile(first, profiles, "did you mean %s?" % similar[0])
    return run(record["base"]["entrypoint"] + arguments, False, False, bound)


def entry():
    try:
        return main(sys.argv[1:])
    except Refused as error:
        lines = ["error: %s" % error.message]
        lines += ["  %-6s  %s" % (label, text) for label, text in error.details]
        if error.hint:
            lines.append("  %-6s  %s" % ("next", error.hint))
        print("\n".join(lines), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(entry())
