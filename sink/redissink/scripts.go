package redissink

import (
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// A command's stream has an entry for each event, with the id <run>-<n>. The run numbers grow from one
// run of a command to the next, so that Redis refuses what a replaced run still sends. n follows the
// events: 0 is a mark that the run has begun, a chunk has its sequence number plus one, and the last
// event has endEntry. So an event that is sent again is refused as well. An end that did not come true is withdrawn by one
// that has the next n.
//
// Field "e" is the event's JSON. Field "p" is the n of the event before it: a follower that finds
// another one than it has seen knows that something was trimmed, or lost in a failover.
//
// The channel that is called as the stream tells followers, in so many words as <run>-<n>, that there
// is something to read; and that this publisher keeps streams.
const (
	beginEntry uint64 = 0
	endEntry   uint64 = 1 << 32 // above every sequence number
)

// channelOf is where a command's events are published.
func channelOf(commandID uuid.UUID) string {
	var room [len(channelPrefix) + 36]byte
	return string(appendUUID(append(room[:0], channelPrefix...), commandID))
}

const channelPrefix = "response:"

// streamOf is the key of a command's stream, and the channel that announces what is appended. In a
// cluster it is in the same slot as the channel of the events.
func streamOf(commandID uuid.UUID) string { return "stream:{" + channelOf(commandID) + "}" }

// entryID is the id of a stream's entry.
type entryID struct {
	run int64
	n   uint64
}

func (id entryID) String() string {
	return strconv.FormatInt(id.run, 10) + "-" + strconv.FormatUint(id.n, 10)
}

func (id entryID) before(other entryID) bool {
	return id.run < other.run || id.run == other.run && id.n < other.n
}

func parseEntryID(text string) (id entryID, ok bool) {
	run, n, ok := strings.Cut(text, "-")
	if !ok {
		return id, false
	}
	var errRun, errN error
	id.run, errRun = strconv.ParseInt(run, 10, 64)
	id.n, errN = strconv.ParseUint(n, 10, 64)
	return id, errRun == nil && errN == nil
}

// The scripts run on every Redis from 6.2 on. Their numbers are doubles: a run's number, microseconds
// since 1970, is exact until the year 2255, and its text is taken from the arguments.

const lastRun = `
local function last_run(stream)
  if redis.call('EXISTS', stream) == 0 then return 0 end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
  return 0
end
`

// beginScript replaces what the stream has of earlier runs, unless a later run has begun. It returns
// the number of the run that the stream now has. Done again it changes nothing, also late.
//
// KEYS: the stream. ARGV: the run, ttl in ms (0: none).
var beginScript = newScript(lastRun + `
local last = last_run(KEYS[1])
if last >= tonumber(ARGV[1]) then return last end
redis.call('UNLINK', KEYS[1])
redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'p', '0', 'e', '')
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
redis.call('PUBLISH', KEYS[1], ARGV[1] .. '-0')
return tonumber(ARGV[1])
`)

// appendScript appends events, announces them and publishes those that were not there yet. It returns
// how many those were, or -1 where another run has replaced this one.
//
// The announcement comes first: a subscriber to both channels that gets an event without it has a
// publisher that keeps no streams.
//
// KEYS: the stream. ARGV: the channel, the run, the length to trim to (0: none), ttl in ms (0: none), the n
// of the event before, that of an event to withdraw (0: none), and then n and JSON of each event.
var appendScript = newScript(lastRun + `
local stream, channel, run, before = KEYS[1], ARGV[1], ARGV[2], ARGV[5]
local fresh, top = {}, nil
-- A failover may have lost what was written of this run, and kept an earlier one. To trim that is cheaper than to look for it.
local how, exactly, bound = 'MINID', '=', run .. '-0'
if ARGV[3] ~= '0' and tonumber(before) + (#ARGV - 6) / 2 >= tonumber(ARGV[3]) then -- the stream may get longer than it shall be
  how, exactly, bound = 'MAXLEN', '~', ARGV[3]
  local last = last_run(stream)
  if last < tonumber(run) then redis.call('UNLINK', stream) end
end
if ARGV[6] ~= '0' then redis.call('XDEL', stream, run .. '-' .. ARGV[6]) end
for i = 7, #ARGV, 2 do
  local n, event = ARGV[i], ARGV[i + 1]
  local added = redis.pcall('XADD', stream, how, exactly, bound, run .. '-' .. n, 'p', before, 'e', event)
  if type(added) ~= 'table' or not added.err then
    fresh[#fresh + 1], top = event, n
  elseif not string.find(added.err, 'equal or smaller', 1, true) then
    return added
  elseif last_run(stream) ~= tonumber(run) then
    return -1
  end
  before = n
end
if #fresh == 0 then return 0 end
if ARGV[4] ~= '0' then redis.call('PEXPIRE', stream, ARGV[4]) end
redis.call('PUBLISH', stream, run .. '-' .. top)
for _, event in ipairs(fresh) do redis.call('PUBLISH', channel, event) end
return #fresh
`)
