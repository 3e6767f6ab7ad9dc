#compdef arrayd
# Made by `python -m deploy.documents` of arrayd's own parser, with shtab (Apache-2.0,
# https://github.com/tqdm/shtab). Not to be changed by hand.

_shtab_arrayd_commands() {
  local _commands=(
    clean:'Remove what nobody maps and no living daemon owns.'
    collect:'Load many files in parallel and write them into one HDF5 file.'
    completion:'Print the completion of a shell: `source <(arrayd completion bash)` in ~/.bashrc, `eval "$(arrayd completion zsh)"` in ~/.zshrc after compinit, or `arrayd completion fish | source` in config.fish.'
    config:'Check a file of the daemon'"'"'s options.'
    demo:'Show what arrayd does, in a few seconds, on a daemon of its own.'
    doctor:'Look for what keeps arrayd from working well, and say what to do about it.'
    drain:'Begin nothing new, wait until nobody holds anything, and stop; Ctrl-C takes it back.'
    evict:'Free the blocks of sources.'
    get:'Load arrays into shared memory.'
    health:'Exit with 0 if the daemon answers in 5 s and its rules hold, else with 1.'
    info:'Tell what files hold, without loading.'
    install-service:'Have systemd run the daemon: for the machine, or for you.'
    kick:'End the sessions of a process: its holds end, its arrays stay readable.'
    list:'Write the list of the files below a folder, for a dataset of one sample per file.'
    pack:'Write the rows of many files into one .npy, in bounded memory.'
    plan:'Tell how a dataset would be delivered to a training.'
    receipt:'Check receipts: that the rows of an epoch were delivered as they say.'
    report:'Tell what a cast to fewer bits would cost.'
    schema:'Print the json schema of what a command prints with --json.'
    serve:'run the daemon, in the foreground'
    status:'Show the arrays in memory, and who holds them.'
    stop:'Stop the daemon; arrays in use stay readable.'
    top:'Watch the arrays in memory: sort, filter and evict by keys.'
    who:'Tell who holds, or waits for, a file.'
  )
  _describe 'arrayd commands' _commands
}

_shtab_arrayd_config_commands() {
  local _commands=(
    check:'say of each error its line, its key and the remedy'
  )
  _describe 'arrayd config commands' _commands
}

_shtab_arrayd_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "(- : *)--version[show program\'s version number and exit]"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_defaults_added=0

_shtab_arrayd_clean_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[clean up after this daemon alone\; default\: after all of this user\'s]:ipc\://PATH:"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_clean_defaults_added=0

_shtab_arrayd_collect_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  {-o,--out}"[replaced at the end]:OUT.h5:_files"
  "--dtype[the type in the files\: f4, chr\:S10,pos\:i4 or a list]:dtype:"
  "--cast[the type wanted]:DTYPE:"
  "--format[npy, npz, hdf5, text, raw, or of a plug-in\; default\: by the suffix]:NAME:"
  "*--option[an option of the format, such as skiprows\=1, shape\=(-1,3) or swmr\=True\; may be repeated]:KEY=VALUE:"
  "--compression[default\: none]:compression:(gzip lzf none)"
  "(*):or FILE\:MEMBER:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_collect_defaults_added=0

_shtab_arrayd_completion_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  ":the shell that is to complete:(bash zsh fish)"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_completion_defaults_added=0

_shtab_arrayd_config_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_config_defaults_added=0

_shtab_arrayd_config_check_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  ":default\: \$ARRAYD_CONFIG, else \/etc\/arrayd\/arrayd.toml:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_config_check_defaults_added=0

_shtab_arrayd_demo_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--dtype[the type in the files]:dtype:"
  "(*)::default\: samples it makes:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_demo_defaults_added=0

_shtab_arrayd_doctor_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema doctor\`]"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_doctor_defaults_added=0

_shtab_arrayd_drain_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema drain\`]"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_drain_defaults_added=0

_shtab_arrayd_evict_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema evict\`]"
  "--block[number or segment name of one block]:N:"
  "(*)::as for \`arrayd get\`\: all blocks of that file:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_evict_defaults_added=0

_shtab_arrayd_get_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema get\`]"
  "--dtype[the type in the file\: f4, chr\:S10,pos\:i4 or \[(\'x\', \'f4\'), \…\]]:dtype:"
  "--cast[the type wanted]:DTYPE:"
  "--overflow[what to do with values beyond --cast]:overflow:(error clip inf)"
  "--rows[a slice of axis 0]:A\:B\:C:"
  "--dataset[HDF5 dataset or npz member]:NAME:"
  "--order[memory layout of the block]:order:(C F)"
  "--format[npy, npz, hdf5, text, raw, or of a plug-in\; default\: by the suffix]:NAME:"
  "*-o[an option of the format, such as skiprows\=1, shape\=(-1,3) or swmr\=True\; may be repeated]:KEY=VALUE:"
  "--attach[print lines that attach with numpy alone]"
  "--pin[keep them so long, or \`forever\`]:SECONDS:"
  "--timeout[give up after so long]:SECONDS:"
  "(*):a path, file.h5\:\/group\/x, file.npz\:member or name\:NAME:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_get_defaults_added=0

_shtab_arrayd_health_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema health\`]"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_health_defaults_added=0

_shtab_arrayd_info_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema info\`]"
  "--dtype[the type in the file\: f4, chr\:S10,pos\:i4 or \[(\'x\', \'f4\'), \…\]]:dtype:"
  "--cast[the type wanted]:DTYPE:"
  "--overflow[what to do with values beyond --cast]:overflow:(error clip inf)"
  "--rows[a slice of axis 0]:A\:B\:C:"
  "--dataset[HDF5 dataset or npz member]:NAME:"
  "--order[memory layout of the block]:order:(C F)"
  "--format[npy, npz, hdf5, text, raw, or of a plug-in\; default\: by the suffix]:NAME:"
  "*-o[an option of the format, such as skiprows\=1, shape\=(-1,3) or swmr\=True\; may be repeated]:KEY=VALUE:"
  "--timeout[give up after so long, for each file]:SECONDS:"
  "(*):as for \`arrayd get\`:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_info_defaults_added=0

_shtab_arrayd_install_service_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--user[a service of yours\; else one for all users, as root]"
  "--dry-run[print what would be written and run, and do nothing]"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_install_service_defaults_added=0

_shtab_arrayd_kick_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema kick\`]"
  ":as \`arrayd status\` shows it:"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_kick_defaults_added=0

_shtab_arrayd_list_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  {-o,--out}"[replaced at the end]:LIST:_files"
  "--label-from[parent\: add a column \`label\` with the name of each file\'s folder]:label_from:(parent)"
  "--pattern[which paths below DIR\; default\: \*\*\/\*, which is all]:pattern:"
  "*--suffix[which files\; may be repeated. Default\: all]:.EXT:"
  ":hidden files in it do not count:_files -/"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_list_defaults_added=0

_shtab_arrayd_pack_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  {-o,--out}"[replaced at the end]:OUT.npy:_files"
  "--cast[the type wanted]:DTYPE:"
  "--overflow[values beyond --cast]:overflow:(error clip inf)"
  "--restart[begin anew, whatever an earlier run has left]"
  "--dataset[HDF5 dataset or npz member, of all]:NAME:"
  "--dtype[the type in the files]:dtype:"
  "--format[npy, npz, hdf5, text, raw, or of a plug-in\; default\: by the suffix]:NAME:"
  "*--option[an option of the format, such as skiprows\=1, shape\=(-1,3) or swmr\=True\; may be repeated]:KEY=VALUE:"
  "(*):FILE, FILE\:MEMBER, a pattern, or a list of files, each one row\; in order:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_pack_defaults_added=0

_shtab_arrayd_plan_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--budget[memory for it\; default\: 80\% of the daemon\'s budget]:SIZE:"
  "--measure[read some rows, and tell how long an epoch takes]"
  "--batch-size[default\: 256]:ROWS:"
  "--dtype[the type in the file\: f4, chr\:S10,pos\:i4 or \[(\'x\', \'f4\'), \…\]]:dtype:"
  "--cast[the type wanted]:DTYPE:"
  "--overflow[what to do with values beyond --cast]:overflow:(error clip inf)"
  "--rows[a slice of axis 0]:A\:B\:C:"
  "--dataset[HDF5 dataset or npz member]:NAME:"
  "--order[memory layout of the block]:order:(C F)"
  "--format[npy, npz, hdf5, text, raw, or of a plug-in\; default\: by the suffix]:NAME:"
  "*-o[an option of the format, such as skiprows\=1, shape\=(-1,3) or swmr\=True\; may be repeated]:KEY=VALUE:"
  "(*):as for arrayd.dataset\: x\=train.h5\:\/x y\=train.h5\:\/y, \'shards\/\*.npy\', samples.txt:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_plan_defaults_added=0

_shtab_arrayd_receipt_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--ids[the row numbers of the selection\; needed for a part of a dataset, unless this machine has streamed it from its files]:FILE.npy:_files"
  ":verify\: compute anew, and compare:(verify)"
  "(*):from Receipt.to_json\; -\: stdin:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_receipt_defaults_added=0

_shtab_arrayd_report_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema report\`]"
  "--dtype[the type in the file\: f4, chr\:S10,pos\:i4 or \[(\'x\', \'f4\'), \…\]]:dtype:"
  "--cast[the type wanted]:DTYPE:"
  "--overflow[what to do with values beyond --cast]:overflow:(error clip inf)"
  "--rows[a slice of axis 0]:A\:B\:C:"
  "--dataset[HDF5 dataset or npz member]:NAME:"
  "--order[memory layout of the block]:order:(C F)"
  "--format[npy, npz, hdf5, text, raw, or of a plug-in\; default\: by the suffix]:NAME:"
  "*-o[an option of the format, such as skiprows\=1, shape\=(-1,3) or swmr\=True\; may be repeated]:KEY=VALUE:"
  ":or FILE\:MEMBER, name\:NAME:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_report_defaults_added=0

_shtab_arrayd_schema_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  ":which command:(status get info evict who kick drain stop doctor health report)"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_schema_defaults_added=0

_shtab_arrayd_serve_options=(
  "--config[TOML file with the options below, \`name \= value\`\; \`-\`\: none (default\: \`-\`)]:FILE:_files"
  "--endpoint[socket to listen on\; \`private\`\: \`\$XDG_RUNTIME_DIR\/arrayd\/sock\`, without that variable \`\/tmp\/arrayd-\<uid\>\/sock\` (default\: \`private\`)]:ipc\://PATH:"
  "--budget[bytes to keep in shared memory\: \`16M\`, \`4G\`, \`1.5T\` (binary units), or a percentage of the smallest of RAM, \/dev\/shm and the tightest memory cgroup (default\: \`50\%\`)]:SIZE:"
  "--workers[loader processes\; \`auto\`\: one per CPU, at most 8 (default\: \`auto\`)]:N:"
  "--load-timeout[a look at a file, or the reading of it or of one part of a large one, that takes longer fails (default\: \`3600\`)]:SECONDS:"
  "--loader-memory[memory of a loader process besides the block\: a file that needs more fails\; \`auto\`\: an eighth of RAM or of the tightest memory cgroup, from 256M to 2G (default\: \`auto\`)]:SIZE:"
  "--keep-pages[keep the pages of a block that has gone so long for the next load, which is then faster, unless memory runs short\; \`0\`\: never (default\: \`5\`)]:SECONDS:"
  "--idle-exit[exit after so long without a session or a mapped block\; \`0\`\: never (default\: \`0\`)]:SECONDS:"
  {--private,--no-private}"[one user\'s daemon, started by a client\; \`arrayd status\` says so (default\: \`false\`)]"
  "--allow[users besides the daemon\'s own who may use it\: \`none\`, \`all\`, or \`alice,1001,\@lab\` (\`\@\` begins a group)\; each gets what it could read itself (default\: \`none\`)]:USERS:"
  "--admins[users who may also see what others hold, free it, and stop the daemon, as root may (default\: \`none\`)]:USERS:"
  "--roots[directories outside which nothing is read for other users\: \`\/data\:\/home\` (default\: \`\/\`)]:DIRS:_files -/"
  "--user-budget[bytes that may be in memory for one other user, as in \`--budget\`, where \`quotas\` says nothing of it (default\: \`25\%\`)]:SIZE:"
  "--max-clients[sessions at a time\; \`auto\`\: what the limit of open files allows, at most 4096 (default\: \`auto\`)]:N:"
  "--log-level[\`debug\`, \`info\`, \`warning\` or \`error\` (default\: \`info\`)]:LEVEL:"
  "--log-file[log here, in two files of at most 1 MiB\; \`-\`\: standard error (default\: \`-\`)]:FILE:_files"
  "--metrics-textfile[write metrics to \`arrayd.prom\` in this directory, for node_exporter\'s textfile collector\; \`-\`\: no (default\: \`-\`)]:DIR:_files -/"
  "--metrics-listen[give metrics by HTTP at \`\/metrics\`, to whoever is on this machine\; port \`0\`\: a free one, which the log names\; \`-\`\: no (default\: \`-\`)]:127.0.0.1\:PORT:"
  {--check,--no-check}"[verify the registry\'s rules after every event (for tests) (default\: \`false\`)]"
  "--quotas[what users, and the members of groups together, may have\: \`alice\: bytes\=80G, loads\=64\; \@lab\: bytes\=200G\; \*\: soft_bytes\=10\%\`, where \`\*\` is each other user\; limits are \`bytes\` and \`blocks\` in memory, \`pinned\` bytes, \`sessions\` (on at most half of all connections) and \`loads\` at a time, and \`soft_bytes\`\: who is above has its unused blocks freed before others have (default\: \`none\`)]:QUOTAS:"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_serve_defaults_added=0

_shtab_arrayd_status_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema status\`]"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_status_defaults_added=0

_shtab_arrayd_stop_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema stop\`]"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_stop_defaults_added=0

_shtab_arrayd_top_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_top_defaults_added=0

_shtab_arrayd_who_options=(
  "(- : *)"{-h,--help}"[show this help message and exit]"
  "--endpoint[the daemon\'s socket, or \`private\`]:ipc\://PATH:"
  "--json[print JSON, for programs\: see \`arrayd schema who\`]"
  ":or FILE\:MEMBER, name\:NAME:_files"
)

# guard to ensure default positional specs are added only once per session
_shtab_arrayd_who_defaults_added=0


_shtab_arrayd() {
  local context state line curcontext="$curcontext" one_or_more='(*)' remainder='(-)*:' default='*::: :->arrayd'

  # Add default positional/remainder specs only if none exist, and only once per session
  if (( ! _shtab_arrayd_defaults_added )); then
    if (( ${_shtab_arrayd_options[(I)${(q)one_or_more}*]} +          ${_shtab_arrayd_options[(I)${(q)remainder}*]} +          ${_shtab_arrayd_options[(I)${(q)default}]} == 0 )); then
      _shtab_arrayd_options+=(': :_shtab_arrayd_commands' '*::: :->arrayd')
    fi
    _shtab_arrayd_defaults_added=1
  fi
  _arguments -C -s $_shtab_arrayd_options

  case $state in
    arrayd)
      words=($line[1] "${words[@]}")
      (( CURRENT += 1 ))
      curcontext="${curcontext%:*:*}:_shtab_arrayd-$line[1]:"
      case $line[1] in
        clean) _arguments -C -s $_shtab_arrayd_clean_options ;;
        collect) _arguments -C -s $_shtab_arrayd_collect_options ;;
        completion) _arguments -C -s $_shtab_arrayd_completion_options ;;
        config) _shtab_arrayd_config ;;
        demo) _arguments -C -s $_shtab_arrayd_demo_options ;;
        doctor) _arguments -C -s $_shtab_arrayd_doctor_options ;;
        drain) _arguments -C -s $_shtab_arrayd_drain_options ;;
        evict) _arguments -C -s $_shtab_arrayd_evict_options ;;
        get) _arguments -C -s $_shtab_arrayd_get_options ;;
        health) _arguments -C -s $_shtab_arrayd_health_options ;;
        info) _arguments -C -s $_shtab_arrayd_info_options ;;
        install-service) _arguments -C -s $_shtab_arrayd_install_service_options ;;
        kick) _arguments -C -s $_shtab_arrayd_kick_options ;;
        list) _arguments -C -s $_shtab_arrayd_list_options ;;
        pack) _arguments -C -s $_shtab_arrayd_pack_options ;;
        plan) _arguments -C -s $_shtab_arrayd_plan_options ;;
        receipt) _arguments -C -s $_shtab_arrayd_receipt_options ;;
        report) _arguments -C -s $_shtab_arrayd_report_options ;;
        schema) _arguments -C -s $_shtab_arrayd_schema_options ;;
        serve) _arguments -C -s $_shtab_arrayd_serve_options ;;
        status) _arguments -C -s $_shtab_arrayd_status_options ;;
        stop) _arguments -C -s $_shtab_arrayd_stop_options ;;
        top) _arguments -C -s $_shtab_arrayd_top_options ;;
        who) _arguments -C -s $_shtab_arrayd_who_options ;;
      esac
  esac
}

_shtab_arrayd_config() {
  local context state line curcontext="$curcontext" one_or_more='(*)' remainder='(-)*:' default='*::: :->config'

  # Add default positional/remainder specs only if none exist, and only once per session
  if (( ! _shtab_arrayd_config_defaults_added )); then
    if (( ${_shtab_arrayd_config_options[(I)${(q)one_or_more}*]} +          ${_shtab_arrayd_config_options[(I)${(q)remainder}*]} +          ${_shtab_arrayd_config_options[(I)${(q)default}]} == 0 )); then
      _shtab_arrayd_config_options+=(': :_shtab_arrayd_config_commands' '*::: :->config')
    fi
    _shtab_arrayd_config_defaults_added=1
  fi
  _arguments -C -s $_shtab_arrayd_config_options

  case $state in
    config)
      words=($line[1] "${words[@]}")
      (( CURRENT += 1 ))
      curcontext="${curcontext%:*:*}:_shtab_arrayd_config-$line[1]:"
      case $line[1] in
        check) _arguments -C -s $_shtab_arrayd_config_check_options ;;
      esac
  esac
}



typeset -A opt_args

if [[ $zsh_eval_context[-1] == eval ]]; then
  # eval/source/. command, register function for later
  compdef _shtab_arrayd -N arrayd
else
  # autoload from fpath, call function directly
  _shtab_arrayd "$@"
fi
