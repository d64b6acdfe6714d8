<?php
// Mautic double: the classes of Mautic that plugins are made of. A later version may lack one, and what needs it breaks.

namespace Mautic\PluginBundle\Bundle {
    abstract class PluginBundleBase
    {
    }
}

namespace Mautic\IntegrationsBundle\Bundle {
    abstract class AbstractPluginBundle extends \Mautic\PluginBundle\Bundle\PluginBundleBase
    {
    }
}
