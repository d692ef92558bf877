#!/usr/bin/env bash
# What can be checked of the Apple side without a Mac, on Debian:
#
# 1. The driver, through real message sends on GNUstep, against stand-ins for Apple's classes: those of the folder
#    ../shared, written apart from anemone, and anemone's own.
# 2. The workspace compiled, linted and linked for aarch64-apple-darwin and x86_64-apple-darwin, against stub libraries.
#
# Neither is a Mac: nothing here shows that a symbol exists on macOS or that the engine computes what it should.
# Tools and builds are kept under target/apple.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

shared=${ANEMONE_SHARED:-../shared}/apple
if [[ ! -d $shared ]]; then
    printf 'skipped: there is no folder %s with the stand-ins and the set-up for the target\n' "$shared"
    exit 0
fi
if [[ $(uname -sm) != "Linux x86_64" ]] || ! command -v apt-get >/dev/null; then
    printf 'skipped: this check needs Debian on x86_64, this is %s\n' "$(uname -sm)"
    exit 0
fi
out=$PWD/target/apple
mkdir -p "$out"

# install PACKAGE...: installs those that are missing.
install() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    ((${#missing[@]} == 0)) && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
packages=(clang-19 gobjc libgnustep-base-dev libblocksruntime-dev lld-19)
command -v llvm-ar >/dev/null || packages+=(llvm)
install "${packages[@]}"

# --- 1. GNUstep
if [[ ! -e $out/stand-ins/libane_classes.so || $shared/standin/ane_standin.m -nt $out/stand-ins/libane_classes.so ]]; then
    "$shared/standin/build.sh" "$out/stand-ins"
fi
# objc2's exception helper asks for a runtime by the name clang has for it; GCC has but one.
cat >"$out/cc" <<'CC'
#!/bin/bash
args=()
for a in "$@"; do [[ $a == -fobjc-runtime=* ]] || args+=("$a"); done
exec gcc "${args[@]}"
CC
chmod +x "$out/cc"
foundation=$(ldd "$out/stand-ins/libane_classes.so" | awk '/libgnustep-base/ {print $3}')
(
    export CC=$out/cc CARGO_TARGET_DIR=$out/gnustep
    export RUSTFLAGS="-L native=$out/stand-ins -Clink-arg=-Wl,-rpath,$out/stand-ins"
    export ANEMONE_STAND_INS=$out/stand-ins/libane_classes.so ANEMONE_FOUNDATION=$foundation
    printf '\n--- tests on GNUstep\n'
    cargo test -p anemone --features gnustep,stand-ins --lib --test stand_ins --test apple
    cargo test -p anemone-cli --features gnustep --test stand_ins
    printf '\n--- lint of the driver and its tests\n'
    cargo clippy -p anemone --features gnustep,stand-ins --all-targets -- -D warnings
)

# --- 2. The targets
[[ -x $out/darwin/cargo-darwin ]] || "$shared/apple_target.sh" "$out/darwin"
# The stub libraries name arm64 alone.
grep -rlF 'targets:' --include='*.tbd' "$out/darwin/sdk" | xargs sed -i \
    '/x86_64-macos/! s/\[ arm64-macos, arm64e-macos \]/[ x86_64-macos, arm64-macos, arm64e-macos ]/'
export CARGO_TARGET_DIR=$out/darwin-target
for target in aarch64-apple-darwin x86_64-apple-darwin; do
    name=${target//-/_}
    export DARWIN_TARGET=$target "CC_$name=clang-19" "AR_$name=llvm-ar"
    printf '\n--- lint for %s\n' "$target"
    "$out/darwin/cargo-darwin" clippy --workspace --exclude xtask --features anemone/stand-ins -- -D warnings
    printf '\n--- link for %s\n' "$target"
    "$out/darwin/cargo-darwin" build -p anemone-cli
    file "$CARGO_TARGET_DIR/$target/debug/anemone" | grep -F 'Mach-O 64-bit'
done
