# eval "$(mmsafe train --shell-completion install=bash)": for all commands, and python -m mmsafe.COMMAND
_mmsafe() {
  local word=${COMP_LINE##* } known
  local full='^([^ ]*python[0-9.]* +-m +mmsafe\.[a-z]+|[^ ]*mmsafe +[a-z]+) +(.*)$' first='^[^ ]*mmsafe +[a-z]*$'
  if [[ $COMP_LINE =~ $full ]]; then
    known=$(COMP_LINE="mmsafe ${BASH_REMATCH[2]}" ${BASH_REMATCH[1]} --shell-completion query=bash 2>/dev/null)
  elif [[ $COMP_LINE =~ $first ]]; then
    known=$(${COMP_LINE%% *} --help 2>/dev/null | while read -r name _; do echo "$name"; done)
  fi
  COMPREPLY=($(compgen -W "$known" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
for name in mmsafe python python3; do complete -o nospace -o default -F _mmsafe "$name"; done
