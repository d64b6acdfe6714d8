<?php
// Mautic double: a migration without a pre-check that finds nothing to change.
return ['sql' => []];
