package jsonscan

// The two ways of Scan.
var (
	ScanBlocks = scanBlocks
	ScanTokens = scanTokens
)

// CanScanBlocks says whether this machine has the first one.
func CanScanBlocks() bool { return canScanBlocks }

// BlocksDepth is how deep that goes.
const BlocksDepth = blocksDepth
