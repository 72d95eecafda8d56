"""A script for bash (and zsh, by its bashcompinit) that completes keys and their values; it starts no Python when it works."""

import shlex
from collections.abc import Mapping, Sequence

from dist_sparse.config.recipes import FOLDER
from dist_sparse.config.tree import leaves

_REQUESTS = ("--print-config", "--plan", "--smoke", "--schema", "--help")
_FILES = ("output", "resume", "data.root", "data.forgetting.ranking", "model.checkpoint", "engine.deepspeed_config")
_COMMANDS = ("python", "python3", "torchrun")

_SCRIPT = r"""# Completion of dist_sparse.train, for bash: source <(python -m dist_sparse.train --completion bash)
# For zsh, before that: autoload -U compinit bashcompinit; compinit; bashcompinit

_dist_sparse_keys=@KEYS@
_dist_sparse_requests=@REQUESTS@
_dist_sparse_recipes=@RECIPES@

_dist_sparse_values() {
    case $1 in
        --config) printf '%s\n' "$_dist_sparse_recipes" ;;
@VALUES@
    esac
}

# Words of an ordinary command line go on to what completed them before.
_dist_sparse_otherwise() {
    local before=_dist_sparse_before_${1##*/}
    if [[ -n ${BASH_VERSION-} && -n ${!before-} ]]; then "${!before}" "$@"; fi
}

_dist_sparse() {
    local place ours='' word key='' value='' written='' each
    COMPREPLY=()
    for ((place = 1; place < COMP_CWORD; place++)); do
        if [[ ${COMP_WORDS[place]} == -m && ${COMP_WORDS[place + 1]} == dist_sparse.train ]]; then ours=1; fi
    done
    if [[ -z $ours || ${COMP_WORDS[COMP_CWORD]} == dist_sparse.train ]]; then
        _dist_sparse_otherwise "$@"
        return
    fi
    word=${COMP_WORDS[COMP_CWORD]}
    if [[ $word == --*=* ]]; then # zsh, and bash without = among its word breaks
        key=${word%%=*} value=${word#*=} written=$key=
    elif [[ $word == '=' ]]; then
        key=${COMP_WORDS[COMP_CWORD - 1]}
    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == '=' ]]; then
        key=${COMP_WORDS[COMP_CWORD - 2]} value=$word
    elif [[ $word != -* && ${COMP_WORDS[COMP_CWORD - 1]} == --* ]]; then
        key=${COMP_WORDS[COMP_CWORD - 1]} value=$word
    fi
    if [[ -n $key ]]; then
        while IFS= read -r each; do
            COMPREPLY+=("$written$each")
        done < <(compgen -W "$(_dist_sparse_values "$key")" -- "$value")
        case $key in
            --config@FILES@)
                while IFS= read -r each; do
                    COMPREPLY+=("$written$each")
                    if [[ -d $each ]]; then compopt -o filenames 2>/dev/null; fi
                done < <(compgen -f -- "$value") ;;
        esac
        return
    fi
    while IFS= read -r each; do
        COMPREPLY+=("$each")
    done < <(compgen -W "$_dist_sparse_requests $_dist_sparse_keys" -- "$word")
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}

for _dist_sparse_command in @COMMANDS@; do
    if [[ -n ${BASH_VERSION-} ]]; then
        _dist_sparse_word=$(complete -p "$_dist_sparse_command" 2>/dev/null)
        if [[ $_dist_sparse_word == *' -F '* && $_dist_sparse_word != *' -F _dist_sparse '* ]]; then
            _dist_sparse_word=${_dist_sparse_word##* -F }
            printf -v "_dist_sparse_before_$_dist_sparse_command" %s "${_dist_sparse_word%% *}"
        fi
        complete -o bashdefault -o default -F _dist_sparse "$_dist_sparse_command"
    else
        complete -o nospace -o default -F _dist_sparse "$_dist_sparse_command"
    fi
done
unset _dist_sparse_command _dist_sparse_word
"""


def completion(words: Mapping[str, Sequence[str]]) -> str:
    """The script; ``words`` are by dotted key of a text all that it may be, where that is known only elsewhere."""
    choices = {key: words.get(key) or leaf.choices or _booleans(leaf.type) for key, leaf in leaves().items()}
    lines = [f"        --{key}) printf '%s\\n' {shlex.join(map(str, values))} ;;" for key, values in choices.items() if values]
    recipes = sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.glob("**/*.yaml"))
    parts = {
        "@KEYS@": shlex.quote("\n".join(f"--{key}=" for key in ["config", *leaves()])),
        "@REQUESTS@": shlex.quote(" ".join(_REQUESTS)),
        "@RECIPES@": shlex.quote("\n".join(each for each in recipes if not each.startswith("sweeps/"))),
        "@VALUES@": "\n".join(lines),
        "@FILES@": "".join(f" | --{key}" for key in _FILES),
        "@COMMANDS@": " ".join(_COMMANDS),
    }
    script = _SCRIPT
    for name, text in parts.items():
        script = script.replace(name, text)
    return script


def _booleans(kind: object) -> tuple[str, ...]:
    return ("true", "false") if kind is bool else ()
