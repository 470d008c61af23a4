<?php
// Which server answers, on which host: reload the page and see it change.
$node = getenv('NODE_NAME') ?: 'unknown';
$server = gethostname();
header('Cache-Control: no-store');
if (isset($_GET['json'])) {
    header('Content-Type: application/json');
    echo json_encode(['node' => $node, 'server' => $server, 'php' => PHP_VERSION]), "\n";
    exit;
}
header('Content-Type: text/html; charset=utf-8');
?>
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title><?= htmlspecialchars($node) ?></title></head>
<body>
<h1>Served by <?= htmlspecialchars($node) ?></h1>
<p>PHP <?= PHP_VERSION ?> in container <?= htmlspecialchars($server) ?>, at <?= gmdate('H:i:s') ?> UTC.</p>
</body>
</html>
