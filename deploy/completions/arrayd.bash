# Made by `python -m deploy.documents` of arrayd's own parser, with shtab (Apache-2.0,
# https://github.com/tqdm/shtab). Not to be changed by hand.

_shtab_arrayd_config_subparsers=(check)
_shtab_arrayd_subparsers=(serve status top get info evict who kick drain stop clean doctor health config install-service completion schema collect pack report list plan receipt demo)

_shtab_arrayd_serve_option_strings=(--config --endpoint --budget --workers --load-timeout --loader-memory --keep-pages --idle-exit --private --no-private --allow --admins --roots --user-budget --max-clients --log-level --log-file --metrics-textfile --metrics-listen --check --no-check --quotas)
_shtab_arrayd_status_option_strings=(-h --help --endpoint --json)
_shtab_arrayd_top_option_strings=(-h --help --endpoint)
_shtab_arrayd_get_option_strings=(-h --help --endpoint --json --dtype --cast --overflow --rows --dataset --order --format -o --attach --pin --timeout)
_shtab_arrayd_info_option_strings=(-h --help --endpoint --json --dtype --cast --overflow --rows --dataset --order --format -o --timeout)
_shtab_arrayd_evict_option_strings=(-h --help --endpoint --json --block)
_shtab_arrayd_who_option_strings=(-h --help --endpoint --json)
_shtab_arrayd_kick_option_strings=(-h --help --endpoint --json)
_shtab_arrayd_drain_option_strings=(-h --help --endpoint --json)
_shtab_arrayd_stop_option_strings=(-h --help --endpoint --json)
_shtab_arrayd_clean_option_strings=(-h --help --endpoint)
_shtab_arrayd_doctor_option_strings=(-h --help --endpoint --json)
_shtab_arrayd_health_option_strings=(-h --help --endpoint --json)
_shtab_arrayd_config_check_option_strings=(-h --help)
_shtab_arrayd_config_option_strings=(-h --help)
_shtab_arrayd_install_service_option_strings=(-h --help --user --dry-run)
_shtab_arrayd_completion_option_strings=(-h --help)
_shtab_arrayd_schema_option_strings=(-h --help)
_shtab_arrayd_collect_option_strings=(-h --help --endpoint -o --out --dtype --cast --format --option --compression)
_shtab_arrayd_pack_option_strings=(-h --help --endpoint -o --out --cast --overflow --restart --dataset --dtype --format --option)
_shtab_arrayd_report_option_strings=(-h --help --endpoint --json --dtype --cast --overflow --rows --dataset --order --format -o)
_shtab_arrayd_list_option_strings=(-h --help -o --out --label-from --pattern --suffix)
_shtab_arrayd_plan_option_strings=(-h --help --endpoint --budget --measure --batch-size --dtype --cast --overflow --rows --dataset --order --format -o)
_shtab_arrayd_receipt_option_strings=(-h --help --ids)
_shtab_arrayd_demo_option_strings=(-h --help --dtype)
_shtab_arrayd_option_strings=(-h --help --version)

_shtab_arrayd_serve___config_COMPGEN=_shtab_compgen_files
_shtab_arrayd_serve___roots_COMPGEN=_shtab_compgen_dirs
_shtab_arrayd_serve___log_file_COMPGEN=_shtab_compgen_files
_shtab_arrayd_serve___metrics_textfile_COMPGEN=_shtab_compgen_dirs
_shtab_arrayd_get_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_info_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_evict_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_who_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_config_check_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_collect_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_collect__o_COMPGEN=_shtab_compgen_files
_shtab_arrayd_collect___out_COMPGEN=_shtab_compgen_files
_shtab_arrayd_pack_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_pack__o_COMPGEN=_shtab_compgen_files
_shtab_arrayd_pack___out_COMPGEN=_shtab_compgen_files
_shtab_arrayd_report_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_list_pos_0_COMPGEN=_shtab_compgen_dirs
_shtab_arrayd_list__o_COMPGEN=_shtab_compgen_files
_shtab_arrayd_list___out_COMPGEN=_shtab_compgen_files
_shtab_arrayd_plan_pos_0_COMPGEN=_shtab_compgen_files
_shtab_arrayd_receipt_pos_1_COMPGEN=_shtab_compgen_files
_shtab_arrayd_receipt___ids_COMPGEN=_shtab_compgen_files
_shtab_arrayd_demo_pos_0_COMPGEN=_shtab_compgen_files

_shtab_arrayd_get___overflow_choices=(error clip inf)
_shtab_arrayd_get___order_choices=(C F)
_shtab_arrayd_info___overflow_choices=(error clip inf)
_shtab_arrayd_info___order_choices=(C F)
_shtab_arrayd_config_pos_0_choices=(check)
_shtab_arrayd_completion_pos_0_choices=(bash zsh fish)
_shtab_arrayd_schema_pos_0_choices=(status get info evict who kick drain stop doctor health report)
_shtab_arrayd_collect___compression_choices=(gzip lzf none)
_shtab_arrayd_pack___overflow_choices=(error clip inf)
_shtab_arrayd_report___overflow_choices=(error clip inf)
_shtab_arrayd_report___order_choices=(C F)
_shtab_arrayd_list___label_from_choices=(parent)
_shtab_arrayd_plan___overflow_choices=(error clip inf)
_shtab_arrayd_plan___order_choices=(C F)
_shtab_arrayd_receipt_pos_0_choices=(verify)
_shtab_arrayd_pos_0_choices=(serve status top get info evict who kick drain stop clean doctor health config install-service completion schema collect pack report list plan receipt demo)

_shtab_arrayd_serve___private_nargs=0
_shtab_arrayd_serve___no_private_nargs=0
_shtab_arrayd_serve___check_nargs=0
_shtab_arrayd_serve___no_check_nargs=0
_shtab_arrayd_status__h_nargs=0
_shtab_arrayd_status___help_nargs=0
_shtab_arrayd_status___json_nargs=0
_shtab_arrayd_top__h_nargs=0
_shtab_arrayd_top___help_nargs=0
_shtab_arrayd_get_pos_0_nargs=+
_shtab_arrayd_get__h_nargs=0
_shtab_arrayd_get___help_nargs=0
_shtab_arrayd_get___json_nargs=0
_shtab_arrayd_get___attach_nargs=0
_shtab_arrayd_info_pos_0_nargs=+
_shtab_arrayd_info__h_nargs=0
_shtab_arrayd_info___help_nargs=0
_shtab_arrayd_info___json_nargs=0
_shtab_arrayd_evict_pos_0_nargs='*'
_shtab_arrayd_evict__h_nargs=0
_shtab_arrayd_evict___help_nargs=0
_shtab_arrayd_evict___json_nargs=0
_shtab_arrayd_who__h_nargs=0
_shtab_arrayd_who___help_nargs=0
_shtab_arrayd_who___json_nargs=0
_shtab_arrayd_kick__h_nargs=0
_shtab_arrayd_kick___help_nargs=0
_shtab_arrayd_kick___json_nargs=0
_shtab_arrayd_drain__h_nargs=0
_shtab_arrayd_drain___help_nargs=0
_shtab_arrayd_drain___json_nargs=0
_shtab_arrayd_stop__h_nargs=0
_shtab_arrayd_stop___help_nargs=0
_shtab_arrayd_stop___json_nargs=0
_shtab_arrayd_clean__h_nargs=0
_shtab_arrayd_clean___help_nargs=0
_shtab_arrayd_doctor__h_nargs=0
_shtab_arrayd_doctor___help_nargs=0
_shtab_arrayd_doctor___json_nargs=0
_shtab_arrayd_health__h_nargs=0
_shtab_arrayd_health___help_nargs=0
_shtab_arrayd_health___json_nargs=0
_shtab_arrayd_config_check__h_nargs=0
_shtab_arrayd_config_check___help_nargs=0
_shtab_arrayd_config_pos_0_nargs=A...
_shtab_arrayd_config__h_nargs=0
_shtab_arrayd_config___help_nargs=0
_shtab_arrayd_install_service__h_nargs=0
_shtab_arrayd_install_service___help_nargs=0
_shtab_arrayd_install_service___user_nargs=0
_shtab_arrayd_install_service___dry_run_nargs=0
_shtab_arrayd_completion__h_nargs=0
_shtab_arrayd_completion___help_nargs=0
_shtab_arrayd_schema__h_nargs=0
_shtab_arrayd_schema___help_nargs=0
_shtab_arrayd_collect_pos_0_nargs=+
_shtab_arrayd_collect__h_nargs=0
_shtab_arrayd_collect___help_nargs=0
_shtab_arrayd_pack_pos_0_nargs=+
_shtab_arrayd_pack__h_nargs=0
_shtab_arrayd_pack___help_nargs=0
_shtab_arrayd_pack___restart_nargs=0
_shtab_arrayd_report__h_nargs=0
_shtab_arrayd_report___help_nargs=0
_shtab_arrayd_report___json_nargs=0
_shtab_arrayd_list__h_nargs=0
_shtab_arrayd_list___help_nargs=0
_shtab_arrayd_plan_pos_0_nargs=+
_shtab_arrayd_plan__h_nargs=0
_shtab_arrayd_plan___help_nargs=0
_shtab_arrayd_plan___measure_nargs=0
_shtab_arrayd_receipt_pos_1_nargs=+
_shtab_arrayd_receipt__h_nargs=0
_shtab_arrayd_receipt___help_nargs=0
_shtab_arrayd_demo_pos_0_nargs='*'
_shtab_arrayd_demo__h_nargs=0
_shtab_arrayd_demo___help_nargs=0
_shtab_arrayd_pos_0_nargs=A...
_shtab_arrayd__h_nargs=0
_shtab_arrayd___help_nargs=0
_shtab_arrayd___version_nargs=0


# $1=COMP_WORDS[1]
_shtab_compgen_files() {
  compgen -f -- $1  # files
}

# $1=COMP_WORDS[1]
_shtab_compgen_dirs() {
  compgen -d -- $1  # recurse into subdirs
}

# $1=COMP_WORDS[1]
_shtab_replace_nonword() {
  echo "${1//[^[:word:]]/_}"
}

# set default values (called for the initial parser & any subparsers)
_set_parser_defaults() {
  local subparsers_var="${prefix}_subparsers[@]"
  sub_parsers=${!subparsers_var-}

  local current_option_strings_var="${prefix}_option_strings[@]"
  current_option_strings=${!current_option_strings_var}

  completed_positional_actions=0

  _set_new_action "pos_$completed_positional_actions" true
}

# $1=action identifier
# $2=positional action (bool)
# set all identifiers for an action's parameters
_set_new_action() {
  current_action="${prefix}_$(_shtab_replace_nonword $1)"

  local current_action_compgen_var=${current_action}_COMPGEN
  current_action_compgen="${!current_action_compgen_var-}"

  local current_action_choices_var="${current_action}_choices[@]"
  current_action_choices="${!current_action_choices_var-}"

  local current_action_nargs_var="${current_action}_nargs"
  if [ -n "${!current_action_nargs_var-}" ]; then
    current_action_nargs="${!current_action_nargs_var}"
  else
    current_action_nargs=1
  fi

  current_action_args_start_index=$(( $word_index + 1 - $pos_only ))

  current_action_is_positional=$2
}

# Notes:
# `COMPREPLY`: what will be rendered after completion is triggered
# `completing_word`: currently typed word to generate completions for
# `${!var}`: evaluates the content of `var` and expand its content as a variable
#     hello="world"
#     x="hello"
#     ${!x} -> ${hello} -> "world"
_shtab_arrayd() {
  local completing_word="${COMP_WORDS[COMP_CWORD]}"
  local previous_word="${COMP_WORDS[COMP_CWORD-1]}"
  local completed_positional_actions
  local current_action
  local current_action_args_start_index
  local current_action_choices
  local current_action_compgen
  local current_action_is_positional
  local current_action_nargs
  local current_option_strings
  local sub_parsers
  COMPREPLY=()

  local prefix=_shtab_arrayd
  local word_index=0
  local pos_only=0 # "--" delimiter not encountered yet
  _set_parser_defaults
  word_index=1

  # determine what arguments are appropriate for the current state
  # of the arg parser
  while [ $word_index -ne $COMP_CWORD ]; do
    local this_word="${COMP_WORDS[$word_index]}"

    if [[ $pos_only = 1 || " $this_word " != " -- " ]]; then
      if [[ -n $sub_parsers && " ${sub_parsers[@]} " == *" $this_word "* ]]; then
        # valid subcommand: add it to the prefix & reset the current action
        prefix="${prefix}_$(_shtab_replace_nonword $this_word)"
        _set_parser_defaults
      fi

      if [[ " ${current_option_strings[@]} " == *" $this_word "* ]]; then
        # a new action should be acquired (due to recognised option string or
        # no more input expected from current action);
        # the next positional action can fill in here
        _set_new_action $this_word false
      fi

      if [[ "$current_action_nargs" != "*" ]] && \
         [[ "$current_action_nargs" != "+" ]] && \
         [[ "$current_action_nargs" != "?" ]] && \
         [[ "$current_action_nargs" != *"..." ]] && \
         (( $word_index + 1 - $current_action_args_start_index - $pos_only >= \
            $current_action_nargs )); then
        $current_action_is_positional && let "completed_positional_actions += 1"
        _set_new_action "pos_$completed_positional_actions" true
      fi
    else
      pos_only=1 # "--" delimiter encountered
    fi

    let "word_index+=1"
  done

  # Generate the completions

  COMPREPLY=()
  if [[ $pos_only = 0 && "$completing_word" == -* &&
        ( -z "$current_action_compgen" || "$current_action_is_positional" = true ) ]]; then
    # optional argument started: use option strings
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
      compgen -W "${current_option_strings[*]}" -- "$completing_word")
  elif [[ "$previous_word" =~ ^[0-9\&]*[\<\>]\>?$ ]]; then
    # handle redirection operators
    compopt -o filenames 2>/dev/null || : # bash>=4
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$completing_word")
  else
    # use choices & compgen
    local action_compgen_word="$completing_word"
    # handle tab-completing in the middle of a line (#248 <- #116)
    [[ -n "$current_action_compgen" && "$completing_word" == -* ]] && action_compgen_word=""
    [ -n "$current_action_compgen" ] && {
      [[ "$current_action_compgen" =~ _(file|dir|glob|FILE|DIR|GLOB)|File|Dir|Glob ]] &&
        compopt -o filenames 2>/dev/null || : # bash>=4
      while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
        "$current_action_compgen" "$action_compgen_word")
    }
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
      compgen -W "${current_action_choices[*]}" -- "$completing_word")
  fi

  if [[ ${#COMPREPLY[@]} = 0 ]]; then
    # native fallback matches are not necessarily filenames (e.g. variables)
    compopt +o filenames 2>/dev/null || : # bash>=4
  fi

  return 0
}

complete -o bashdefault -F _shtab_arrayd arrayd
