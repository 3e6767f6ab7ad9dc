# Made by `python -m deploy.documents` of arrayd's own parser, with shtab (Apache-2.0,
# https://github.com/tqdm/shtab). Not to be changed by hand.

function _shtab_arrayd_scan
  set -g _shtab_arrayd_cmdpath ''
  set -g _shtab_arrayd_npos 0
  set -l tokens (commandline -opc)
  set -e tokens[1]
  set -l expect_value 0
  for t in $tokens
    if test $expect_value -eq 1
      set expect_value 0
      continue
    end
    switch "$t"
      case '--*=*'
        continue
      case '-*'
        if contains -- $t $_shtab_arrayd_opts_with_value
          set expect_value 1
        end
        continue
      case '*'
        if test $_shtab_arrayd_npos -eq 0
          set -l candidate $t
          if test -n "$_shtab_arrayd_cmdpath"
            set candidate "$_shtab_arrayd_cmdpath $t"
          end
          if contains -- $candidate $_shtab_arrayd_commands
            set -g _shtab_arrayd_cmdpath $candidate
            continue
          end
        end
        set -g _shtab_arrayd_npos (math $_shtab_arrayd_npos + 1)
    end
  end
end

# Condition helper: true if the current (sub)command path equals the given one.
function _shtab_arrayd_using
  _shtab_arrayd_scan
  test "$_shtab_arrayd_cmdpath" = "$argv"
end

set -g _shtab_arrayd_commands serve status top get info evict who kick drain stop clean doctor health config 'config check' install-service completion schema collect pack report list plan receipt demo
set -g _shtab_arrayd_opts_with_value --admins --allow --batch-size --block --budget --cast --compression --config --dataset --dtype --endpoint --format --idle-exit --ids --keep-pages --label-from --load-timeout --loader-memory --log-file --log-level --max-clients --metrics-listen --metrics-textfile --option --order --out --overflow --pattern --pin --quotas --roots --rows --suffix --timeout --user-budget --workers -o

complete -c arrayd -e
complete -c arrayd -f

complete -c arrayd -n _shtab_arrayd_using -s h -l help -d 'show this help message and exit'
complete -c arrayd -n _shtab_arrayd_using -l version -d 'show program'"'"'s version number and exit'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a serve -d 'run the daemon, in the foreground'
complete -c arrayd -n '_shtab_arrayd_using serve' -l config -xka "(__fish_complete_path (commandline -ct))" -d 'TOML file with the options below, `name = value`; `-`: none (default: `-`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l endpoint -x -d 'socket to listen on; `private`: `$XDG_RUNTIME_DIR/arrayd/sock`, without that variable `/tmp/arrayd-<uid>/sock` (default: `private`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l budget -x -d 'bytes to keep in shared memory: `16M`, `4G`, `1.5T` (binary units), or a percentage of the smallest of RAM, /dev/shm and the tightest memory cgroup (default: `50%`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l workers -x -d 'loader processes; `auto`: one per CPU, at most 8 (default: `auto`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l load-timeout -x -d 'a look at a file, or the reading of it or of one part of a large one, that takes longer fails (default: `3600`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l loader-memory -x -d 'memory of a loader process besides the block: a file that needs more fails; `auto`: an eighth of RAM or of the tightest memory cgroup, from 256M to 2G (default: `auto`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l keep-pages -x -d 'keep the pages of a block that has gone so long for the next load, which is then faster, unless memory runs short; `0`: never (default: `5`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l idle-exit -x -d 'exit after so long without a session or a mapped block; `0`: never (default: `0`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l private -l no-private -d 'one user'"'"'s daemon, started by a client; `arrayd status` says so (default: `false`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l allow -x -d 'users besides the daemon'"'"'s own who may use it: `none`, `all`, or `alice,1001,@lab` (`@` begins a group); each gets what it could read itself (default: `none`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l admins -x -d 'users who may also see what others hold, free it, and stop the daemon, as root may (default: `none`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l roots -xka "(__fish_complete_directories)" -d 'directories outside which nothing is read for other users: `/data:/home` (default: `/`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l user-budget -x -d 'bytes that may be in memory for one other user, as in `--budget`, where `quotas` says nothing of it (default: `25%`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l max-clients -x -d 'sessions at a time; `auto`: what the limit of open files allows, at most 4096 (default: `auto`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l log-level -x -d '`debug`, `info`, `warning` or `error` (default: `info`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l log-file -xka "(__fish_complete_path (commandline -ct))" -d 'log here, in two files of at most 1 MiB; `-`: standard error (default: `-`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l metrics-textfile -xka "(__fish_complete_directories)" -d 'write metrics to `arrayd.prom` in this directory, for node_exporter'"'"'s textfile collector; `-`: no (default: `-`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l metrics-listen -x -d 'give metrics by HTTP at `/metrics`, to whoever is on this machine; port `0`: a free one, which the log names; `-`: no (default: `-`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l check -l no-check -d 'verify the registry'"'"'s rules after every event (for tests) (default: `false`)'
complete -c arrayd -n '_shtab_arrayd_using serve' -l quotas -x -d 'what users, and the members of groups together, may have: `alice: bytes=80G, loads=64; @lab: bytes=200G; *: soft_bytes=10%`, where `*` is each other user; limits are `bytes` and `blocks` in memory, `pinned` bytes, `sessions` (on at most half of all connections) and `loads` at a time, and `soft_bytes`: who is above has its unused blocks freed before others have (default: `none`)'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a status -d 'Show the arrays in memory, and who holds them.'
complete -c arrayd -n '_shtab_arrayd_using status' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using status' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using status' -l json -d 'print JSON, for programs: see `arrayd schema status`'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a top -d 'Watch the arrays in memory: sort, filter and evict by keys.'
complete -c arrayd -n '_shtab_arrayd_using top' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using top' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a get -d 'Load arrays into shared memory.'
complete -c arrayd -n '_shtab_arrayd_using get' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using get' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using get' -l json -d 'print JSON, for programs: see `arrayd schema get`'
complete -c arrayd -n '_shtab_arrayd_using get' -l dtype -x -d 'the type in the file: f4, chr:S10,pos:i4 or [('"'"'x'"'"', '"'"'f4'"'"'), …]'
complete -c arrayd -n '_shtab_arrayd_using get' -l cast -x -d 'the type wanted'
complete -c arrayd -n '_shtab_arrayd_using get' -l overflow -xka "error clip inf" -d 'what to do with values beyond --cast'
complete -c arrayd -n '_shtab_arrayd_using get' -l rows -x -d 'a slice of axis 0'
complete -c arrayd -n '_shtab_arrayd_using get' -l dataset -x -d 'HDF5 dataset or npz member'
complete -c arrayd -n '_shtab_arrayd_using get' -l order -xka "C F" -d 'memory layout of the block'
complete -c arrayd -n '_shtab_arrayd_using get' -l format -x -d 'npy, npz, hdf5, text, raw, or of a plug-in; default: by the suffix'
complete -c arrayd -n '_shtab_arrayd_using get' -s o -x -d 'an option of the format, such as skiprows=1, shape=(-1,3) or swmr=True; may be repeated'
complete -c arrayd -n '_shtab_arrayd_using get' -l attach -d 'print lines that attach with numpy alone'
complete -c arrayd -n '_shtab_arrayd_using get' -l pin -x -d 'keep them so long, or `forever`'
complete -c arrayd -n '_shtab_arrayd_using get' -l timeout -x -d 'give up after so long'
complete -c arrayd -n '_shtab_arrayd_using get; and test $_shtab_arrayd_npos -ge 0' -ka "(__fish_complete_path (commandline -ct))" -d 'a path, file.h5:/group/x, file.npz:member or name:NAME'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a info -d 'Tell what files hold, without loading.'
complete -c arrayd -n '_shtab_arrayd_using info' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using info' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using info' -l json -d 'print JSON, for programs: see `arrayd schema info`'
complete -c arrayd -n '_shtab_arrayd_using info' -l dtype -x -d 'the type in the file: f4, chr:S10,pos:i4 or [('"'"'x'"'"', '"'"'f4'"'"'), …]'
complete -c arrayd -n '_shtab_arrayd_using info' -l cast -x -d 'the type wanted'
complete -c arrayd -n '_shtab_arrayd_using info' -l overflow -xka "error clip inf" -d 'what to do with values beyond --cast'
complete -c arrayd -n '_shtab_arrayd_using info' -l rows -x -d 'a slice of axis 0'
complete -c arrayd -n '_shtab_arrayd_using info' -l dataset -x -d 'HDF5 dataset or npz member'
complete -c arrayd -n '_shtab_arrayd_using info' -l order -xka "C F" -d 'memory layout of the block'
complete -c arrayd -n '_shtab_arrayd_using info' -l format -x -d 'npy, npz, hdf5, text, raw, or of a plug-in; default: by the suffix'
complete -c arrayd -n '_shtab_arrayd_using info' -s o -x -d 'an option of the format, such as skiprows=1, shape=(-1,3) or swmr=True; may be repeated'
complete -c arrayd -n '_shtab_arrayd_using info' -l timeout -x -d 'give up after so long, for each file'
complete -c arrayd -n '_shtab_arrayd_using info; and test $_shtab_arrayd_npos -ge 0' -ka "(__fish_complete_path (commandline -ct))" -d 'as for `arrayd get`'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a evict -d 'Free the blocks of sources.'
complete -c arrayd -n '_shtab_arrayd_using evict' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using evict' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using evict' -l json -d 'print JSON, for programs: see `arrayd schema evict`'
complete -c arrayd -n '_shtab_arrayd_using evict' -l block -x -d 'number or segment name of one block'
complete -c arrayd -n '_shtab_arrayd_using evict; and test $_shtab_arrayd_npos -ge 0' -ka "(__fish_complete_path (commandline -ct))" -d 'as for `arrayd get`: all blocks of that file'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a who -d 'Tell who holds, or waits for, a file.'
complete -c arrayd -n '_shtab_arrayd_using who' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using who' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using who' -l json -d 'print JSON, for programs: see `arrayd schema who`'
complete -c arrayd -n '_shtab_arrayd_using who; and test $_shtab_arrayd_npos -eq 0' -ka "(__fish_complete_path (commandline -ct))" -d 'or FILE:MEMBER, name:NAME'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a kick -d 'End the sessions of a process: its holds end, its arrays stay readable.'
complete -c arrayd -n '_shtab_arrayd_using kick' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using kick' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using kick' -l json -d 'print JSON, for programs: see `arrayd schema kick`'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a drain -d 'Begin nothing new, wait until nobody holds anything, and stop; Ctrl-C takes it back.'
complete -c arrayd -n '_shtab_arrayd_using drain' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using drain' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using drain' -l json -d 'print JSON, for programs: see `arrayd schema drain`'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a stop -d 'Stop the daemon; arrays in use stay readable.'
complete -c arrayd -n '_shtab_arrayd_using stop' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using stop' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using stop' -l json -d 'print JSON, for programs: see `arrayd schema stop`'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a clean -d 'Remove what nobody maps and no living daemon owns.'
complete -c arrayd -n '_shtab_arrayd_using clean' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using clean' -l endpoint -x -d 'clean up after this daemon alone; default: after all of this user'"'"'s'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a doctor -d 'Look for what keeps arrayd from working well, and say what to do about it.'
complete -c arrayd -n '_shtab_arrayd_using doctor' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using doctor' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using doctor' -l json -d 'print JSON, for programs: see `arrayd schema doctor`'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a health -d 'Exit with 0 if the daemon answers in 5 s and its rules hold, else with 1.'
complete -c arrayd -n '_shtab_arrayd_using health' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using health' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using health' -l json -d 'print JSON, for programs: see `arrayd schema health`'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a config -d 'Check a file of the daemon'"'"'s options.'
complete -c arrayd -n '_shtab_arrayd_using config' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using config; and test $_shtab_arrayd_npos -eq 0' -a check -d 'say of each error its line, its key and the remedy'
complete -c arrayd -n '_shtab_arrayd_using config check' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using config check; and test $_shtab_arrayd_npos -eq 0' -ka "(__fish_complete_path (commandline -ct))" -d 'default: $ARRAYD_CONFIG, else /etc/arrayd/arrayd.toml'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a install-service -d 'Have systemd run the daemon: for the machine, or for you.'
complete -c arrayd -n '_shtab_arrayd_using install-service' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using install-service' -l user -d 'a service of yours; else one for all users, as root'
complete -c arrayd -n '_shtab_arrayd_using install-service' -l dry-run -d 'print what would be written and run, and do nothing'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a completion -d 'Print the completion of a shell: `source <(arrayd completion bash)` in ~/.bashrc, `eval "$(arrayd completion zsh)"` in ~/.zshrc after compinit, or `arrayd completion fish | source` in config.fish.'
complete -c arrayd -n '_shtab_arrayd_using completion' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using completion; and test $_shtab_arrayd_npos -eq 0' -ka "bash zsh fish" -d 'the shell that is to complete'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a schema -d 'Print the json schema of what a command prints with --json.'
complete -c arrayd -n '_shtab_arrayd_using schema' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using schema; and test $_shtab_arrayd_npos -eq 0' -ka "status get info evict who kick drain stop doctor health report" -d 'which command'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a collect -d 'Load many files in parallel and write them into one HDF5 file.'
complete -c arrayd -n '_shtab_arrayd_using collect' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using collect' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using collect' -s o -l out -xka "(__fish_complete_path (commandline -ct))" -d 'replaced at the end'
complete -c arrayd -n '_shtab_arrayd_using collect' -l dtype -x -d 'the type in the files: f4, chr:S10,pos:i4 or a list'
complete -c arrayd -n '_shtab_arrayd_using collect' -l cast -x -d 'the type wanted'
complete -c arrayd -n '_shtab_arrayd_using collect' -l format -x -d 'npy, npz, hdf5, text, raw, or of a plug-in; default: by the suffix'
complete -c arrayd -n '_shtab_arrayd_using collect' -l option -x -d 'an option of the format, such as skiprows=1, shape=(-1,3) or swmr=True; may be repeated'
complete -c arrayd -n '_shtab_arrayd_using collect' -l compression -xka "gzip lzf none" -d 'default: none'
complete -c arrayd -n '_shtab_arrayd_using collect; and test $_shtab_arrayd_npos -ge 0' -ka "(__fish_complete_path (commandline -ct))" -d 'or FILE:MEMBER'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a pack -d 'Write the rows of many files into one .npy, in bounded memory.'
complete -c arrayd -n '_shtab_arrayd_using pack' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using pack' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using pack' -s o -l out -xka "(__fish_complete_path (commandline -ct))" -d 'replaced at the end'
complete -c arrayd -n '_shtab_arrayd_using pack' -l cast -x -d 'the type wanted'
complete -c arrayd -n '_shtab_arrayd_using pack' -l overflow -xka "error clip inf" -d 'values beyond --cast'
complete -c arrayd -n '_shtab_arrayd_using pack' -l restart -d 'begin anew, whatever an earlier run has left'
complete -c arrayd -n '_shtab_arrayd_using pack' -l dataset -x -d 'HDF5 dataset or npz member, of all'
complete -c arrayd -n '_shtab_arrayd_using pack' -l dtype -x -d 'the type in the files'
complete -c arrayd -n '_shtab_arrayd_using pack' -l format -x -d 'npy, npz, hdf5, text, raw, or of a plug-in; default: by the suffix'
complete -c arrayd -n '_shtab_arrayd_using pack' -l option -x -d 'an option of the format, such as skiprows=1, shape=(-1,3) or swmr=True; may be repeated'
complete -c arrayd -n '_shtab_arrayd_using pack; and test $_shtab_arrayd_npos -ge 0' -ka "(__fish_complete_path (commandline -ct))" -d 'FILE, FILE:MEMBER, a pattern, or a list of files, each one row; in order'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a report -d 'Tell what a cast to fewer bits would cost.'
complete -c arrayd -n '_shtab_arrayd_using report' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using report' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using report' -l json -d 'print JSON, for programs: see `arrayd schema report`'
complete -c arrayd -n '_shtab_arrayd_using report' -l dtype -x -d 'the type in the file: f4, chr:S10,pos:i4 or [('"'"'x'"'"', '"'"'f4'"'"'), …]'
complete -c arrayd -n '_shtab_arrayd_using report' -l cast -x -d 'the type wanted'
complete -c arrayd -n '_shtab_arrayd_using report' -l overflow -xka "error clip inf" -d 'what to do with values beyond --cast'
complete -c arrayd -n '_shtab_arrayd_using report' -l rows -x -d 'a slice of axis 0'
complete -c arrayd -n '_shtab_arrayd_using report' -l dataset -x -d 'HDF5 dataset or npz member'
complete -c arrayd -n '_shtab_arrayd_using report' -l order -xka "C F" -d 'memory layout of the block'
complete -c arrayd -n '_shtab_arrayd_using report' -l format -x -d 'npy, npz, hdf5, text, raw, or of a plug-in; default: by the suffix'
complete -c arrayd -n '_shtab_arrayd_using report' -s o -x -d 'an option of the format, such as skiprows=1, shape=(-1,3) or swmr=True; may be repeated'
complete -c arrayd -n '_shtab_arrayd_using report; and test $_shtab_arrayd_npos -eq 0' -ka "(__fish_complete_path (commandline -ct))" -d 'or FILE:MEMBER, name:NAME'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a list -d 'Write the list of the files below a folder, for a dataset of one sample per file.'
complete -c arrayd -n '_shtab_arrayd_using list' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using list' -s o -l out -xka "(__fish_complete_path (commandline -ct))" -d 'replaced at the end'
complete -c arrayd -n '_shtab_arrayd_using list' -l label-from -xka "parent" -d 'parent: add a column `label` with the name of each file'"'"'s folder'
complete -c arrayd -n '_shtab_arrayd_using list' -l pattern -x -d 'which paths below DIR; default: **/*, which is all'
complete -c arrayd -n '_shtab_arrayd_using list' -l suffix -x -d 'which files; may be repeated. Default: all'
complete -c arrayd -n '_shtab_arrayd_using list; and test $_shtab_arrayd_npos -eq 0' -ka "(__fish_complete_directories)" -d 'hidden files in it do not count'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a plan -d 'Tell how a dataset would be delivered to a training.'
complete -c arrayd -n '_shtab_arrayd_using plan' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using plan' -l endpoint -x -d 'the daemon'"'"'s socket, or `private`'
complete -c arrayd -n '_shtab_arrayd_using plan' -l budget -x -d 'memory for it; default: 80% of the daemon'"'"'s budget'
complete -c arrayd -n '_shtab_arrayd_using plan' -l measure -d 'read some rows, and tell how long an epoch takes'
complete -c arrayd -n '_shtab_arrayd_using plan' -l batch-size -x -d 'default: 256'
complete -c arrayd -n '_shtab_arrayd_using plan' -l dtype -x -d 'the type in the file: f4, chr:S10,pos:i4 or [('"'"'x'"'"', '"'"'f4'"'"'), …]'
complete -c arrayd -n '_shtab_arrayd_using plan' -l cast -x -d 'the type wanted'
complete -c arrayd -n '_shtab_arrayd_using plan' -l overflow -xka "error clip inf" -d 'what to do with values beyond --cast'
complete -c arrayd -n '_shtab_arrayd_using plan' -l rows -x -d 'a slice of axis 0'
complete -c arrayd -n '_shtab_arrayd_using plan' -l dataset -x -d 'HDF5 dataset or npz member'
complete -c arrayd -n '_shtab_arrayd_using plan' -l order -xka "C F" -d 'memory layout of the block'
complete -c arrayd -n '_shtab_arrayd_using plan' -l format -x -d 'npy, npz, hdf5, text, raw, or of a plug-in; default: by the suffix'
complete -c arrayd -n '_shtab_arrayd_using plan' -s o -x -d 'an option of the format, such as skiprows=1, shape=(-1,3) or swmr=True; may be repeated'
complete -c arrayd -n '_shtab_arrayd_using plan; and test $_shtab_arrayd_npos -ge 0' -ka "(__fish_complete_path (commandline -ct))" -d 'as for arrayd.dataset: x=train.h5:/x y=train.h5:/y, '"'"'shards/*.npy'"'"', samples.txt'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a receipt -d 'Check receipts: that the rows of an epoch were delivered as they say.'
complete -c arrayd -n '_shtab_arrayd_using receipt' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using receipt' -l ids -xka "(__fish_complete_path (commandline -ct))" -d 'the row numbers of the selection; needed for a part of a dataset, unless this machine has streamed it from its files'
complete -c arrayd -n '_shtab_arrayd_using receipt; and test $_shtab_arrayd_npos -eq 0' -ka "verify" -d 'verify: compute anew, and compare'
complete -c arrayd -n '_shtab_arrayd_using receipt; and test $_shtab_arrayd_npos -ge 1' -ka "(__fish_complete_path (commandline -ct))" -d 'from Receipt.to_json; -: stdin'
complete -c arrayd -n '_shtab_arrayd_using; and test $_shtab_arrayd_npos -eq 0' -a demo -d 'Show what arrayd does, in a few seconds, on a daemon of its own.'
complete -c arrayd -n '_shtab_arrayd_using demo' -s h -l help -d 'show this help message and exit'
complete -c arrayd -n '_shtab_arrayd_using demo' -l dtype -x -d 'the type in the files'
complete -c arrayd -n '_shtab_arrayd_using demo; and test $_shtab_arrayd_npos -ge 0' -ka "(__fish_complete_path (commandline -ct))" -d 'default: samples it makes'
