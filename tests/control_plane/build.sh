#!/usr/bin/env bash
# Builds kube-apiserver, kube-controller-manager and kube-scheduler 1.20 from Debian 12's source package, for tests/control_plane.
#   tests/control_plane/build.sh FOLDER      as root; the programs end in FOLDER/bin; a second call compiles only what is missing
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,3s/^# *//p' "$0" >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd)
programs="kube-apiserver kube-controller-manager kube-scheduler"
go=/usr/lib/go-1.19/bin

# Debian's own source list has no deb-src line on many machines: lists of our own, so that the machine's stay as they are.
mkdir -p "$folder/apt/lists/partial"
cat > "$folder/apt/sources.list" <<'LIST'
deb http://deb.debian.org/debian bookworm main
deb-src http://deb.debian.org/debian bookworm main
LIST
apt=(apt-get -q -o APT::Sandbox::User=root -o Dir::State::Lists="$folder/apt/lists"
    -o Dir::Etc::SourceList="$folder/apt/sources.list" -o Dir::Etc::SourceParts=-)
"${apt[@]}" update
DEBIAN_FRONTEND=noninteractive "${apt[@]}" install --yes --no-install-recommends \
    golang-1.19-go golang-github-modern-go-reflect2-dev dpkg-dev make gcc libc6-dev rsync

# Unpacked and not installed: the package would start an etcd of its own.
mkdir -p "$folder/bin"
(cd "$folder" && "${apt[@]}" download etcd-server && dpkg-deb --extract etcd-server_*.deb etcd-server)
install -m 755 "$folder/etcd-server/usr/bin/etcd" "$folder/bin/etcd"
"$folder/bin/etcd" --version | head -n 1

source=$(find "$folder" -maxdepth 1 -type d -name 'kubernetes-1.20*')
if [ -z "$source" ]; then
    (cd "$folder" && "${apt[@]}" source --only-source kubernetes)
    source=$(find "$folder" -maxdepth 1 -type d -name 'kubernetes-1.20*')
fi

# The vendored reflect2 reads inside the runtime of older Go: with 1.19 the first custom resource would crash the server.
reflect2=$source/vendor/github.com/modern-go/reflect2
find "$reflect2" -type f -delete
cp /usr/share/gocode/src/github.com/modern-go/reflect2/* "$reflect2/"

# A tarball has no tags to take the version from.
version=$(basename "$source" | sed -E 's/.*really//')
cat > "$folder/version.sh" <<VERSION
KUBE_GIT_COMMIT=unknown
KUBE_GIT_TREE_STATE=archive
KUBE_GIT_VERSION=v$version
KUBE_GIT_MAJOR=1
KUBE_GIT_MINOR=20
VERSION

mkdir -p "$source/.go/src/k8s.io" "$folder/home"
ln -sfn ../../.. "$source/.go/src/k8s.io/kubernetes"
cd "$source/.go/src/k8s.io/kubernetes"
PATH=$go:$PATH GOPATH=$source/.go HOME=$folder/home CGO_ENABLED=0 GO111MODULE=off GOFLAGS= \
    KUBE_GIT_VERSION_FILE=$folder/version.sh make WHAT="$(printf 'cmd/%s ' $programs)"

for program in $programs; do
    install -m 755 "$source/_output/bin/$program" "$folder/bin/$program"
    "$folder/bin/$program" --version | grep -F "Kubernetes v$version"
done
