package jsonscan

// The two ways of Scan.
func ScanBlocks(text []byte) Verdict {
	v, _ := scanBlocks(text, 0)
	return v
}

var ScanTokens = scanTokens

// CanScanBlocks says whether this machine has the first one.
func CanScanBlocks() bool { return canScanBlocks }

// BlocksDepth is how deep that goes.
const BlocksDepth = blocksDepth
