# What the scripts beside this one need of a machine. They source it; it keeps to bash 3.2.

# not_checked is what a check returns when it could not look.
not_checked=77

require_command() {
  command -v "$1" >/dev/null || die "$1 is missing: $2"
}

has_program() {
  command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/opt/homebrew/bin/$1" ] || [ -x "/usr/local/bin/$1" ]
}

# has_browser looks where internal/browser does.
has_browser() {
  local path
  for path in chromium chromium-browser google-chrome google-chrome-stable \
    "/Applications/Chromium.app/Contents/MacOS/Chromium" "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
    ! command -v "$path" >/dev/null || return 0
  done
  return 1
}

# install_debian_packages REASON PACKAGE...
install_debian_packages() {
  local reason=$1 root=""
  shift
  command -v apt-get >/dev/null || die "$reason: install what Debian calls $*"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "$reason: as root, run apt-get install $*"
    root=sudo
  fi
  echo "installing $* with apt-get: $reason"
  $root apt-get update -qq
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >"$tmp/apt" 2>&1 || {
    cat "$tmp/apt"
    die "apt-get could not install $*"
  }
}

# tool PACKAGE@VERSION prints the path of a program in the user's cache and builds it there the first
# time. These are not tool lines of go.mod: golangci-lint alone would add 200 requirements to it.
tool() {
  local name dir
  name=${1%@*} && name=${name##*/}
  # Built with another Go, they would refuse this one's code.
  dir=${XDG_CACHE_HOME:-$HOME/.cache}/sovd-go-vehicle/$name-${1#*@}-$(go env GOVERSION)
  if [ ! -x "$dir/$name" ]; then
    echo "installing $1 into $dir: minutes, once" >&2
    GOBIN=$dir go install "$1" >&2
  fi
  echo "$dir/$name"
}

heading() { printf '\n=== %s\n' "$1"; }

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}
